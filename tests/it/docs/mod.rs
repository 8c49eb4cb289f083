//! The documentation: it is served as it should be, its links lead somewhere, its examples run, and its figures are
//! those of the program.

mod blocks;
mod files;
#[cfg(feature = "fdb")]
mod guide_fdb;
mod limits;
mod links;
mod pages;
mod proxies;
mod retries;
mod scripts;
mod settings;
mod shell;
mod unix_proxies;
mod workplace;

use newsfeed::docs::{GUIDES, INDEX};

/// A file of the documentation.
#[derive(Clone, Copy)]
struct Text {
    /// From the top of the repository.
    path: &'static str,
    text: &'static str,
}

const README: Text = Text {
    path: "README.md",
    text: include_str!("../../../README.md"),
};

/// All files of the documentation.
fn texts() -> impl Iterator<Item = Text> {
    let guides = [INDEX].into_iter().chain(GUIDES.iter().copied());
    let guides = guides.map(|guide| Text {
        path: guide.path,
        text: guide.text,
    });
    [README].into_iter().chain(guides)
}
