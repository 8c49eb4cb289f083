// The API reference at /docs/api: Swagger UI, with the light or dark look of the system.
const dark = matchMedia("(prefers-color-scheme: dark)");
const paint = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", paint);
paint();

globalThis.SwaggerUIBundle({
  url: new URL("../openapi.yaml", import.meta.url).href,
  dom_id: "#api",
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  // No request leaves this origin: the document is not sent to a validator.
  validatorUrl: null,
});
