//! Markdown to HTML.

use std::collections::HashMap;

use pulldown_cmark::{CodeBlockKind, CowStr, Event, Options, Parser, Tag, TagEnd, html};

use super::{GUIDES, INDEX};

/// A guide as HTML, without the page around it.
#[derive(Debug)]
pub struct Rendered {
    pub html: String,
    /// The addresses that its links lead to, as they stand in `html`.
    pub links: Vec<String>,
    /// The fragments that lead to its headings.
    pub anchors: Vec<String>,
}

/// The file `text` of the repository, at `path`, as HTML. HTML in the text is shown as text, not interpreted; comments
/// are left out.
pub fn render(path: &str, text: &str) -> Rendered {
    let parser = Parser::new_ext(text, Options::ENABLE_TABLES);
    let mut events: Vec<Event> = Vec::new();
    let mut rendered = Rendered {
        html: String::new(),
        links: Vec::new(),
        anchors: Vec::new(),
    };
    let mut known = HashMap::new();
    let mut heading = None;
    for event in parser {
        match event {
            Event::Html(markup) | Event::InlineHtml(markup) => {
                if !is_comment(&markup) {
                    events.push(Event::Text(markup));
                }
            }
            Event::Start(Tag::Link {
                link_type,
                dest_url,
                title,
                id,
            }) => {
                let dest_url = CowStr::from(address(path, &dest_url));
                rendered.links.push(dest_url.to_string());
                events.push(Event::Start(Tag::Link {
                    link_type,
                    dest_url,
                    title,
                    id,
                }));
            }
            Event::Start(Tag::Heading { .. }) => {
                heading = Some(events.len());
                events.push(event);
            }
            Event::End(TagEnd::Heading(_)) => {
                if let Some(start) = heading.take() {
                    let anchor = anchor(&events[start..], &mut known);
                    if let Event::Start(Tag::Heading { id, .. }) = &mut events[start] {
                        *id = Some(CowStr::from(anchor.clone()));
                    }
                    let link = format!(
                        " <a class=\"anchor\" href=\"#{anchor}\" aria-hidden=\"true\" tabindex=\"-1\">#</a>"
                    );
                    events.push(Event::InlineHtml(CowStr::from(link)));
                    rendered.anchors.push(anchor);
                }
                events.push(event);
            }
            // Wide code blocks and tables scroll on their own, also by keyboard, so that the page does not.
            Event::Start(Tag::CodeBlock(kind)) => {
                let language: String = match &kind {
                    CodeBlockKind::Fenced(info) => info
                        .chars()
                        .take_while(|character| character.is_alphanumeric())
                        .collect(),
                    CodeBlockKind::Indented => String::new(),
                };
                let start = format!("<pre tabindex=\"0\"><code class=\"language-{language}\">");
                events.push(Event::Html(CowStr::from(start)));
            }
            Event::End(TagEnd::CodeBlock) => {
                events.push(Event::Html(CowStr::Borrowed("</code></pre>\n")));
            }
            Event::Start(Tag::Table(_)) => {
                let frame =
                    "<div class=\"table\" tabindex=\"0\" role=\"group\" aria-label=\"Table\">\n";
                events.push(Event::Html(CowStr::Borrowed(frame)));
                events.push(event);
            }
            Event::End(TagEnd::Table) => {
                events.push(event);
                events.push(Event::Html(CowStr::Borrowed("</div>\n")));
            }
            event => events.push(event),
        }
    }
    html::push_html(&mut rendered.html, events.into_iter());
    rendered
}

fn is_comment(markup: &str) -> bool {
    let markup = markup.trim();
    markup.starts_with("<!--") && markup.ends_with("-->")
}

/// The fragment of a heading, by the rules of GitHub, so that a link to it works there too.
fn anchor(heading: &[Event], known: &mut HashMap<String, usize>) -> String {
    let mut anchor = String::new();
    for event in heading {
        if let Event::Text(text) | Event::Code(text) = event {
            for character in text.chars() {
                match character {
                    ' ' => anchor.push('-'),
                    '-' | '_' => anchor.push(character),
                    other if other.is_alphanumeric() => anchor.extend(other.to_lowercase()),
                    _ => {}
                }
            }
        }
    }
    let times = known.entry(anchor.clone()).or_default();
    *times += 1;
    match *times {
        1 => anchor,
        again => format!("{anchor}-{}", again - 1),
    }
}

/// Where a link of the file at `path` leads under `/docs`: to another guide's page if it names that guide's file.
fn address(path: &str, link: &str) -> String {
    let (file, fragment) = match link.split_once('#') {
        Some((file, fragment)) => (file, format!("#{fragment}")),
        None => (link, String::new()),
    };
    if file.is_empty() || file.starts_with('/') || file.contains(':') {
        return link.to_owned();
    }
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in file.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." => {}
            part => parts.push(part),
        }
    }
    let target = parts.join("/");
    if target == INDEX.path {
        return format!("/docs{fragment}");
    }
    match GUIDES.iter().find(|guide| guide.path == target) {
        Some(guide) => format!("/docs/{}{fragment}", guide.slug),
        None => link.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn html(text: &str) -> String {
        render("src/docs/limits.md", text).html
    }

    #[test]
    fn markup_is_shown_and_comments_are_left_out() {
        let page = html("a <b onclick=\"x()\">b</b>\n\n<script>x()</script>\n\n<!-- c -->\n");
        assert!(!page.contains("<b") && !page.contains("<script"), "{page}");
        assert!(
            page.contains("&lt;script&gt;") && !page.contains("<!--"),
            "{page}"
        );
    }

    #[test]
    fn headings_have_anchors_of_their_own() {
        let rendered = render(
            "src/docs/limits.md",
            "# A `b`, c!\n\n## Again\n\n## Again\n",
        );
        assert_eq!(rendered.anchors, ["a-b-c", "again", "again-1"]);
        assert!(
            rendered.html.contains("<h2 id=\"again-1\">"),
            "{}",
            rendered.html
        );
    }

    #[test]
    fn links_between_files_become_links_between_pages() {
        for (link, wanted) in [
            ("recipes.md", "/docs/recipes"),
            ("recipes.md#badge", "/docs/recipes#badge"),
            ("../../fdb/README.md", "/docs/foundationdb"),
            ("README.md", "/docs"),
            ("#here", "#here"),
            ("https://example.org/a.md", "https://example.org/a.md"),
        ] {
            assert_eq!(address("src/docs/limits.md", link), wanted);
        }
        assert_eq!(
            address("fdb/README.md", "../src/docs/limits.md"),
            "/docs/limits"
        );
    }
}
