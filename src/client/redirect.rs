//! Redirects: where they lead, and which address to use instead. They are not followed, because most of them turn a POST
//! into a GET.

use reqwest::{Response, Url, header};

use super::Error;

/// The error for a response to `call` that is a redirect.
pub fn redirected(response: &Response, call: &str, base_url: &str) -> Option<Error> {
    let status = response.status();
    let location = response.headers().get(header::LOCATION)?.to_str().ok()?;
    if !status.is_redirection() {
        return None;
    }
    let target = response.url().join(location).ok()?;
    Some(Error::Redirected {
        call: call.to_owned(),
        status: status.as_u16(),
        advice: advice(response.url(), &target, base_url),
        location: target.to_string(),
    })
}

fn advice(requested: &Url, target: &Url, base_url: &str) -> String {
    let bare = |url: &Url| {
        let mut url = url.clone();
        url.set_query(None);
        url.to_string()
    };
    let (requested, target) = (bare(requested), bare(target));
    let path = requested.strip_prefix(base_url);
    match path.and_then(|path| target.strip_suffix(path)) {
        Some(base) if base != base_url => format!("use --url {base}"),
        _ if target == format!("{requested}/") => {
            "the service has no such path; configure the proxy in front of it to pass paths on unchanged".to_owned()
        }
        _ => "give the address of the service itself with --url".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_names_the_base_url_behind_a_redirect() {
        let base = "http://feeds.example/a";
        let advice = |target: &str| {
            let url = |text: &str| Url::parse(text).expect("a URL");
            advice(
                &url("http://feeds.example/a/v1/state?feed=x"),
                &url(target),
                base,
            )
        };
        for (target, told) in [
            (
                "https://feeds.example/a/v1/state?feed=x",
                "use --url https://feeds.example/a",
            ),
            ("https://b.example/v1/state", "use --url https://b.example"),
            (
                "http://feeds.example/a/v1/state/?feed=x",
                "pass paths on unchanged",
            ),
            (
                "https://login.example/?next=%2Fa",
                "give the address of the service itself",
            ),
        ] {
            assert!(
                advice(target).contains(told),
                "{target}: {}",
                advice(target)
            );
        }
    }
}
