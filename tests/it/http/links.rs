//! The `Link` header of pages: its length, and what it leads to.

use serde_json::json;

use super::visits;
use crate::support::{
    bed::{Answer, Bed},
    names::encoded,
    raw,
};

crate::on_every_engine!(
    a_long_link_is_left_out_and_next_stays,
    the_link_of_a_name_that_was_not_encoded_is,
);

fn link(page: &Answer) -> Option<&str> {
    let link = page.header("link")?;
    link.strip_prefix('<')?.strip_suffix(">; rel=\"next\"")
}

async fn a_long_link_is_left_out_and_next_stays(bed: &Bed) {
    let node = bed.node().await;
    let feeds: Vec<String> = (0..100)
        .map(|index| format!("feed-{index:03}-{}", "x".repeat(100)))
        .collect();
    node.append(&visits("e", 3, &[&feeds[0]])).await;
    let mut lengths = Vec::new();
    for count in 1..=feeds.len() {
        let query = feeds[..count]
            .iter()
            .map(|feed| format!("feed={feed}&"))
            .collect::<String>();
        let page = node
            .send("GET", &format!("/v1/entries?{query}limit=2"), &[])
            .await;
        assert_eq!(page.status, 200);
        let next = page.json()["next"]
            .as_str()
            .map(str::to_owned)
            .expect("a next page");
        match page.header("link") {
            Some(header) => {
                lengths.push(header.len());
                let target = link(&page).expect("a link");
                assert!(target.ends_with(&format!("before={next}")), "{target}");
                assert_eq!(
                    node.get(target).await["entries"].as_array().map(Vec::len),
                    Some(1)
                );
            }
            None => {
                let path = format!("/v1/entries?{query}before={next}");
                assert_eq!(
                    node.get(&path).await["entries"].as_array().map(Vec::len),
                    Some(1)
                );
            }
        }
    }
    // Each feed adds 115 bytes.
    let longest = lengths.iter().copied().max().expect("links");
    assert!((2048 - 115..=2048).contains(&longest), "{longest}");
    assert!(lengths.len() < 20, "{lengths:?}");
}

async fn the_link_of_a_name_that_was_not_encoded_is(bed: &Bed) {
    let node = bed.node().await;
    node.append(&json!([
        { "kind": "visit", "feeds": ["Zoë"] }, { "kind": "visit", "feeds": ["Zoë"] },
    ]))
    .await;
    for name in ["Zoë", &encoded("Zoë")] {
        let request = raw::request(
            "GET",
            &format!("/v1/feeds/{name}/entries?limit=1"),
            &[],
            b"",
        );
        let page = raw::exchange(node.address, &request).await;
        assert_eq!(page.status, 200, "{name}");
        let target = link(&page).expect("a link");
        assert!(
            target.starts_with("/v1/feeds/Zo%C3%AB/entries?"),
            "{target}"
        );
        assert_eq!(
            node.get(target).await["entries"].as_array().map(Vec::len),
            Some(1)
        );
    }
}
