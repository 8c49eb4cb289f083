//! Refuses requests that two programs may read in two ways: a proxy in front of this service must not see another host,
//! or another end of the body, than the service does.

use axum::http::{HeaderMap, HeaderValue, Request, Version, header, uri::Authority};

use super::problem::{Code, Problem, Result};

/// Checks that the request names one host, and that its body ends in one way. (hyper refuses several `Content-Length`, and
/// closes the connection after a request with both `Content-Length` and `Transfer-Encoding`.)
pub fn check<B>(request: &Request<B>) -> Result<()> {
    let host = one_host(request.headers(), request.version())?;
    if let (Some(host), Some(target)) = (host, request.uri().authority())
        && !host.as_str().eq_ignore_ascii_case(target.as_str())
    {
        return Err(invalid(
            "the Host header names another host than the URL of the request",
        ));
    }
    let mut codings = request.headers().get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(invalid(
            "the only Transfer-Encoding of a request may be one `chunked`",
        )),
    }
}

fn one_host(headers: &HeaderMap, version: Version) -> Result<Option<Authority>> {
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => authority(host)
            .map(Some)
            .ok_or_else(|| invalid("the Host header must be a host, or a host and a port")),
        (None, _) if version == Version::HTTP_11 => {
            Err(invalid("a request of HTTP/1.1 must have a Host header"))
        }
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(invalid("the request has more than one Host header")),
    }
}

fn authority(host: &HeaderValue) -> Option<Authority> {
    let authority = Authority::try_from(host.as_bytes()).ok()?;
    (!authority.as_str().contains('@')).then_some(authority)
}

fn invalid(detail: &str) -> Problem {
    Problem::new(Code::InvalidRequest, detail)
}
