//! Links: from guide to guide, to files of the repository, to headings, and what the pages make of them.

use std::{collections::HashMap, path::Path};

use newsfeed::{
    docs::{GUIDES, INDEX, render},
    http::{OPERATIONS, web::FILES},
};
use pulldown_cmark::{Event, LinkType, Parser, Tag};

use super::{README, texts};

/// Where links of the pages may lead besides pages.
fn is_served(path: &str) -> bool {
    path == "/docs/api"
        || FILES.iter().any(|file| file.path == path)
        || OPERATIONS.iter().any(|operation| operation.path == path)
}

#[test]
fn links_of_pages_lead_to_pages_and_headings() {
    let mut pages = HashMap::new();
    for guide in [INDEX].iter().chain(GUIDES) {
        let path = match guide.slug {
            "" => "/docs".to_owned(),
            slug => format!("/docs/{slug}"),
        };
        pages.insert(path, render(guide.path, guide.text));
    }
    for (path, page) in &pages {
        for link in &page.links {
            if link.starts_with("http://127.0.0.1:8080") || link.starts_with("https://") {
                continue;
            }
            let (target, fragment) = link.split_once('#').unwrap_or((link, ""));
            let target = if target.is_empty() { path } else { target };
            match pages.get(target) {
                Some(page) => assert!(
                    fragment.is_empty() || page.anchors.iter().any(|anchor| anchor == fragment),
                    "{link} in {path}"
                ),
                None => assert!(is_served(target), "{link} in {path}"),
            }
        }
    }
}

#[test]
fn links_of_files_lead_to_files_and_headings() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in texts() {
        for event in Parser::new(file.text) {
            let (Event::Start(Tag::Link { dest_url, .. })
            | Event::Start(Tag::Image { dest_url, .. })) = event
            else {
                continue;
            };
            if dest_url.contains("://") || dest_url.starts_with('#') {
                continue;
            }
            let (target, fragment) = dest_url.split_once('#').unwrap_or((&dest_url, ""));
            let path = root
                .join(file.path)
                .parent()
                .expect("a folder")
                .join(target);
            assert!(path.is_file(), "{dest_url} in {}", file.path);
            if !fragment.is_empty() {
                let text = std::fs::read_to_string(&path).expect("text");
                let anchors = render(target, &text).anchors;
                assert!(
                    anchors.iter().any(|anchor| anchor == fragment),
                    "{dest_url} in {}",
                    file.path
                );
            }
        }
    }
}

/// Only references with the slug as their label also work in rustdoc.
#[test]
fn guides_refer_to_each_other_by_slug() {
    for file in texts().filter(|file| file.path != README.path) {
        for event in Parser::new(file.text) {
            if let Event::Start(Tag::Link {
                link_type,
                dest_url,
                id,
                ..
            }) = event
                && dest_url.ends_with(".md")
            {
                assert!(
                    matches!(
                        link_type,
                        LinkType::Reference | LinkType::Shortcut | LinkType::Collapsed
                    ),
                    "{dest_url} in {}: write it as a reference",
                    file.path
                );
                let guide = GUIDES.iter().find(|guide| guide.slug == &*id);
                let guide = guide.unwrap_or_else(|| panic!("[{id}] in {}", file.path));
                let target = Path::new(file.path)
                    .parent()
                    .expect("a folder")
                    .join(&*dest_url);
                assert_eq!(normal(&target), guide.path, "[{id}] in {}", file.path);
            }
        }
        // A reference without a definition is no link, but text.
        let plain = Parser::new(file.text)
            .filter(|event| matches!(event, Event::Text(text) if text.contains("][")));
        assert_eq!(
            plain.count(),
            0,
            "a link without its definition in {}",
            file.path
        );
    }
}

fn normal(path: &Path) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.iter().map(|part| part.to_str().expect("UTF-8")) {
        match part {
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[test]
fn the_front_door_is_short_and_names_every_guide() {
    assert!(README.text.lines().count() <= 150, "README.md");
    let anywhere = |text: &str, path: &str| {
        let links = Parser::new(text).filter_map(|event| match event {
            Event::Start(Tag::Link { dest_url, .. }) => Some(dest_url.into_string()),
            _ => None,
        });
        links.into_iter().any(|link| link == path)
    };
    for guide in GUIDES {
        assert!(
            anywhere(README.text, guide.path),
            "{} in README.md",
            guide.path
        );
        let from_index = match guide.path.strip_prefix("src/docs/") {
            Some(path) => path.to_owned(),
            None => format!("../../{}", guide.path),
        };
        assert!(
            anywhere(INDEX.text, &from_index),
            "{} in the index",
            guide.path
        );
    }
}

#[test]
fn files_hold_one_title_and_no_markup() {
    for file in texts() {
        let events: Vec<_> = Parser::new(file.text).collect();
        let titles = events.iter().filter(|event| {
            matches!(
                event,
                Event::Start(Tag::Heading {
                    level: pulldown_cmark::HeadingLevel::H1,
                    ..
                })
            )
        });
        assert_eq!(titles.count(), 1, "{}", file.path);
        for event in &events {
            if let Event::Html(markup) | Event::InlineHtml(markup) = event {
                panic!("{markup:?} in {}", file.path);
            }
        }
    }
}
