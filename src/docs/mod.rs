//! The guides: Markdown files, served as HTML at `/docs` and part of this documentation.
#![doc = ""]
#![doc = links!()]
#![doc = ""]
#![doc = include_str!("README.md")]

mod render;

pub use self::render::{Rendered, render};

/// A guide.
#[derive(Debug, Clone, Copy)]
pub struct Guide {
    /// Its address under `/docs/`, and the label of links to it in the guides.
    pub slug: &'static str,
    pub title: &'static str,
    /// Where its file is, from the top of the repository.
    pub path: &'static str,
    pub text: &'static str,
}

/// The page at `/docs`: the list of the guides.
pub const INDEX: Guide = Guide {
    slug: "",
    title: "Documentation",
    path: "src/docs/README.md",
    text: include_str!("README.md"),
};

/// The guides, in the order in which a reader needs them.
///
/// A guide refers to another one by a link reference whose label is the slug: `[the limits][limits]`, with
/// `[limits]: limits.md` at its end. So the same text has working links on GitHub, under `/docs`, and in rustdoc, where
/// the definitions of `links!` come first and therefore win.
macro_rules! guides {
    ($($module:ident $slug:literal $title:literal $path:literal)+) => {
        macro_rules! links {
            () => {
                concat!($("[", $slug, "]: crate::docs::", stringify!($module), "\n",)+)
            };
        }
        use links;

        $(
            #[doc = links!()]
            #[doc = ""]
            #[doc = include_str!(concat!("../../", $path))]
            pub mod $module {}
        )+

        pub const GUIDES: &[Guide] = &[$(Guide {
            slug: $slug,
            title: $title,
            path: $path,
            text: include_str!(concat!("../../", $path)),
        },)+];
    };
}

guides! {
    getting_started "getting-started" "Getting started" "src/docs/getting-started.md"
    glossary "glossary" "Glossary" "src/docs/glossary.md"
    recipes "recipes" "Recipes" "src/docs/recipes.md"
    javascript "javascript" "JavaScript library" "src/docs/javascript.md"
    command_line "command-line" "Command line" "src/docs/command-line.md"
    http "http" "HTTP conventions" "src/docs/http.md"
    limits "limits" "Limits" "src/docs/limits.md"
    configuration "configuration" "Configuration" "src/docs/configuration.md"
    operations "operations" "Operations" "src/docs/operations.md"
    monitoring "monitoring" "Monitoring" "src/docs/monitoring.md"
    security "security" "Security" "src/docs/security.md"
    foundationdb "foundationdb" "Running on FoundationDB" "fdb/README.md"
    performance "performance" "Performance" "src/docs/performance.md"
    benchmarks "benchmarks" "Benchmarks" "benches/README.md"
    internals "internals" "Internals" "src/docs/internals.md"
    changelog "changelog" "Changelog" "src/docs/changelog.md"
}
