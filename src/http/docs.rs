//! The documentation at `/docs`: the guides as HTML, and the API reference. Served without credentials, like the page
//! at `/`.

use std::{
    collections::HashMap,
    io::{Cursor, Read},
    sync::{Arc, LazyLock, OnceLock},
};

use axum::{
    Router,
    extract::{Path, State},
    http::{HeaderMap, Uri},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use bytes::Bytes;
use utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED;
use zip::ZipArchive;

use super::{
    App,
    base_path::BasePath,
    not_found::not_found,
    routes::method_not_allowed,
    web::{CSS, Content, HTML, JAVASCRIPT, SECURITY_POLICY},
};
use crate::docs::{GUIDES, Guide, INDEX, render};

/// Swagger UI needs more than the policy of the other pages allows: it sets inline styles and has icons in `data:`
/// URLs.
const REFERENCE_POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                                base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'";

const PAGE: &str = include_str!("../docs/page.html");
const REFERENCE: &str = include_str!("../docs/api.html");

/// The files of Swagger UI that the reference uses.
pub const REFERENCE_FILES: [(&str, &str); 2] = [
    ("swagger-ui.css", CSS),
    ("swagger-ui-bundle.js", JAVASCRIPT),
];

/// The guides as pages, by slug; the index has the empty one. They are rendered when the first one is requested.
#[derive(Clone)]
struct Pages {
    base: BasePath,
    pages: Arc<OnceLock<HashMap<&'static str, Content>>>,
}

static REFERENCE_CONTENTS: LazyLock<[Content; 2]> = LazyLock::new(|| {
    REFERENCE_FILES
        .map(|(name, content_type)| Content::new(content_type, SECURITY_POLICY, packed(name)))
});

pub fn routes(base: &BasePath) -> Router<Arc<App>> {
    let reference = Content::new(HTML, REFERENCE_POLICY, Bytes::from(base.html(REFERENCE)));
    let pages = Pages {
        base: base.clone(),
        pages: Arc::default(),
    };
    let index = pages.clone();
    let mut router = Router::new()
        .route(
            "/docs",
            get(async move |State(app), uri, headers: HeaderMap| {
                index.answer(app, uri, "", &headers).await
            }),
        )
        .route(
            "/docs/",
            get(Redirect::permanent(&format!("{}/docs", base.as_str()))),
        )
        .route(
            "/docs/{guide}",
            get(
                async move |State(app), uri, Path(slug): Path<String>, headers: HeaderMap| {
                    pages.answer(app, uri, &slug, &headers).await
                },
            ),
        )
        .route(
            "/docs/api",
            get(async move |headers: HeaderMap| reference.answer(&headers)),
        );
    for (index, (name, _)) in REFERENCE_FILES.iter().enumerate() {
        router = router.route(
            &format!("/docs/api/{name}"),
            get(async move |headers: HeaderMap| REFERENCE_CONTENTS[index].answer(&headers)),
        );
    }
    router.method_not_allowed_fallback(method_not_allowed)
}

impl Pages {
    async fn answer(&self, app: Arc<App>, uri: Uri, slug: &str, headers: &HeaderMap) -> Response {
        let pages = self.pages.get_or_init(|| {
            let guides = [INDEX].into_iter().chain(GUIDES.iter().copied());
            guides
                .map(|guide| (guide.slug, page(guide, &self.base)))
                .collect()
        });
        match pages.get(slug) {
            Some(page) => page.answer(headers),
            None => not_found(State(app), uri).await.into_response(),
        }
    }
}

fn page(guide: Guide, base: &BasePath) -> Content {
    let items = GUIDES.iter().map(|other| {
        let here = if other.slug == guide.slug {
            " aria-current=\"page\""
        } else {
            ""
        };
        format!(
            "<li><a href=\"/docs/{}\"{here}>{}</a></li>",
            other.slug, other.title
        )
    });
    let html = PAGE
        .replace("{title}", guide.title)
        .replace("{guides}", &items.collect::<String>())
        .replace("{content}", &render(guide.path, guide.text).html);
    Content::new(HTML, SECURITY_POLICY, Bytes::from(base.html(&html)))
}

/// A file of Swagger UI, from the archive in which its crate ships it.
fn packed(name: &str) -> Bytes {
    let mut archive =
        ZipArchive::new(Cursor::new(SWAGGER_UI_VENDORED)).expect("the crate holds an archive");
    let suffix = format!("/dist/{name}");
    let path = archive
        .file_names()
        .flatten()
        .find(|path| path.ends_with(&suffix));
    let path = path
        .expect("the archive holds the files of Swagger UI")
        .into_owned();
    let mut content = Vec::new();
    let mut file = archive.by_name(&path).expect("it was just found");
    file.read_to_end(&mut content)
        .expect("the archive is intact");
    Bytes::from(content)
}
