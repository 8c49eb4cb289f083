//! The guides as pages, and the API reference.

use newsfeed::{
    docs::{GUIDES, INDEX},
    http::docs::REFERENCE_FILES,
};

use crate::support::{bed::Bed, raw};

crate::on_every_engine!(
    every_guide_is_a_page,
    the_reference_is_made_of_files_of_this_origin
);

async fn every_guide_is_a_page(bed: &Bed) {
    let node = bed.node().await;
    for guide in [INDEX].iter().chain(GUIDES) {
        let path = match guide.slug {
            "" => "/docs".to_owned(),
            slug => format!("/docs/{slug}"),
        };
        let answer = node.send("GET", &path, &[]).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(
            answer.header("content-type"),
            Some("text/html; charset=utf-8")
        );
        let policy = answer.header("content-security-policy").unwrap_or_default();
        assert!(policy.starts_with("default-src 'self';") && !policy.contains("unsafe"));
        let page = String::from_utf8(answer.body.to_vec()).expect("text");
        assert!(
            page.contains(&format!("<title>{} – newsfeed</title>", guide.title)),
            "{path}"
        );
        assert!(page.contains("<h1 id="), "{path}");
        for other in GUIDES {
            assert!(
                page.contains(&format!("href=\"/docs/{}\"", other.slug)),
                "{path}"
            );
        }
        for inline in [
            "<script",
            "style=",
            "{title}",
            "{guides}",
            "{content}",
            "src=\"http",
        ] {
            assert!(!page.contains(inline), "{inline} in {path}");
        }

        let known = [("if-none-match", answer.header("etag").expect("an ETag"))];
        let same = node.send("GET", &path, &known).await;
        assert_eq!((same.status, same.body.len()), (304, 0), "{path}");
        let head = raw::exchange(node.address, &raw::request("HEAD", &path, &[], b"")).await;
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        let post = raw::exchange(node.address, &raw::request("POST", &path, &[], b"")).await;
        post.problem(405, "method_not_allowed").expect(&path);
    }
    let missing = node.send("GET", "/docs/nothing", &[]).await;
    missing.problem(404, "not_found").expect("no such guide");
    let slash = raw::exchange(node.address, &raw::request("GET", "/docs/", &[], b"")).await;
    assert_eq!(
        (slash.status, slash.header("location")),
        (308, Some("/docs"))
    );
}

async fn the_reference_is_made_of_files_of_this_origin(bed: &Bed) {
    let node = bed.node().await;
    let answer = node.send("GET", "/docs/api", &[]).await;
    assert_eq!(answer.status, 200);
    let policy = answer.header("content-security-policy").unwrap_or_default();
    // Scripts come from this origin only; Swagger UI needs inline styles and icons in `data:` URLs.
    assert_eq!(
        policy,
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; base-uri 'none'; form-action \
         'none'; frame-ancestors 'none'; object-src 'none'"
    );
    let page = String::from_utf8(answer.body.to_vec()).expect("text");
    let mut files = 0;
    for start in ["href=\"", "src=\""] {
        for rest in page.split(start).skip(1) {
            let path = rest.split('"').next().expect("an end");
            assert!(path.starts_with('/') && !path.starts_with("//"), "{path}");
            assert_eq!(node.send("GET", path, &[]).await.status, 200, "{path}");
            files += 1;
        }
    }
    assert!(files >= 6, "{files}");
    for (name, content_type) in REFERENCE_FILES {
        let path = format!("/docs/api/{name}");
        let answer = node.send("GET", &path, &[]).await;
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (200, Some(content_type))
        );
        assert!(answer.body.len() > 100_000, "{path}");
        let known = [("if-none-match", answer.header("etag").expect("an ETag"))];
        assert_eq!(node.send("GET", &path, &known).await.status, 304);
    }
}
