//! Limits per caller: rates of requests and of body bytes, and numbers of open streams and connections. Exceeding one
//! returns 429 (a connection is closed); other callers are unaffected.

mod metered;
mod permits;
mod rate;
mod stored;

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use axum::{
    body::{Body, HttpBody},
    extract::{Request, State},
    http::{Extensions, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio_util::sync::CancellationToken;

use self::{metered::Metered, permits::Permits, rate::Rate, stored::Stored};
pub use self::{metered::OverBytes, permits::Permit, rate::PER_S_MAX, stored::Storing};
use super::{
    body::BODY_BYTES_MAX,
    caller::{Caller, Peer},
    problem::{Code, Problem, Result},
    proxies::Proxies,
};

/// The burst of requests, in seconds of the steady rate.
const REQUESTS_BURST_S: u32 = 2;
/// The burst of body bytes, in seconds of the steady rate; at least one whole JSON body.
const BYTES_BURST_S: u32 = 4;
/// `Retry-After` for a refused stream. When one of the caller's streams will end is unknown.
const STREAM_RETRY_S: u32 = 5;
/// How often the state of idle callers is dropped.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// The limits of one caller; `None` is no limit.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    pub requests_per_s: Option<NonZeroU32>,
    /// Bytes of request bodies.
    pub bytes_per_s: Option<NonZeroU32>,
    /// Events that are appended.
    pub events_per_s: Option<NonZeroU32>,
    /// Bytes of keys and values that appends write.
    pub stored_bytes_per_s: Option<NonZeroU32>,
    /// Open live streams and long polls.
    pub streams: Option<NonZeroU32>,
    /// Open connections from one address.
    pub connections: Option<NonZeroU32>,
    /// Whether the limits also apply to callers on this machine without credentials.
    pub loopback: bool,
}

/// What each caller has used of its limits.
pub struct Quotas {
    limits: Limits,
    requests: Option<Rate>,
    bytes: Option<Rate>,
    stored: Stored,
    streams: Option<Arc<Permits<Caller>>>,
    connections: Option<Arc<Permits<Peer>>>,
}

impl Quotas {
    pub fn new(limits: Limits) -> Arc<Self> {
        let rate = |per_s: Option<NonZeroU32>, burst_s, burst_min| {
            per_s.map(|per_s| Rate::new(per_s, per_s.get().saturating_mul(burst_s).max(burst_min)))
        };
        Arc::new(Self {
            requests: rate(limits.requests_per_s, REQUESTS_BURST_S, 1),
            bytes: rate(limits.bytes_per_s, BYTES_BURST_S, BODY_BYTES_MAX as u32),
            stored: Stored::default(),
            streams: limits.streams.map(Permits::new),
            connections: limits.connections.map(Permits::new),
            limits,
        })
    }

    /// A permit for a connection; `None` if its peer has as many as allowed. Trusted proxies are exempt, because they
    /// connect for many clients.
    pub fn connection(&self, peer: Peer, proxies: &Proxies) -> Option<Permit<Peer>> {
        match &self.connections {
            Some(permits) if self.applies_to(peer) && !proxies.trust(peer) => {
                permits.take(peer.party())
            }
            _ => Some(Permit::unlimited()),
        }
    }

    /// Drops the state of idle callers periodically, until `stop`.
    pub async fn sweep(&self, stop: CancellationToken) {
        let pause = || stop.run_until_cancelled(tokio::time::sleep(SWEEP_EVERY));
        while pause().await.is_some() {
            let rates = [&self.requests, &self.bytes];
            rates.into_iter().flatten().for_each(Rate::sweep);
            self.stored.sweep();
        }
    }

    fn applies_to(&self, peer: Peer) -> bool {
        self.limits.loopback || !peer.is_local()
    }

    /// The caller whose limits apply to a request; `None` if none apply.
    fn caller(&self, request: &Extensions) -> Option<Caller> {
        let local = |peer: &Peer| !self.applies_to(*peer);
        Caller::of(request).filter(|caller| {
            matches!(caller, Caller::Subject(_)) || !request.get().is_some_and(local)
        })
    }

    /// Counts one request against the peer's address, before unknown credentials are verified. Otherwise requests with
    /// invalid credentials would count against nobody, although verifying signatures is what costs most.
    pub fn take_unverified(&self, request: &Extensions) -> Result<()> {
        match request.get::<Peer>() {
            Some(peer) if self.applies_to(*peer) => self.take_request(&Caller::Party(peer.party())),
            _ => Ok(()),
        }
    }

    fn take_request(&self, caller: &Caller) -> Result<()> {
        let Some(rate) = &self.requests else {
            return Ok(());
        };
        rate.take(caller, 1).map_err(|wait| {
            let Rate { per_s, burst, .. } = rate;
            let detail = format!(
                "this caller may send {per_s} requests/s, in bursts of up to {burst}; try again after Retry-After"
            );
            Problem::new(Code::TooManyRequests, detail).retry_after(wait)
        })
    }

    fn take_bytes(&self, caller: &Caller, bytes: usize) -> Result<()> {
        let Some(rate) = &self.bytes else {
            return Ok(());
        };
        rate.take(caller, bytes).map_err(|wait| {
            let Rate { per_s, burst, .. } = rate;
            let detail = format!(
                "this caller may send {per_s} body bytes/s, in bursts of up to {burst}; send the rest after Retry-After"
            );
            Problem::new(Code::TooManyBytes, detail).retry_after(wait)
        })
    }
}

/// A request whose caller has limits, in the request's extensions.
#[derive(Clone)]
struct Limited {
    quotas: Arc<Quotas>,
    caller: Caller,
}

/// Enforces the caller's rates of requests and of body bytes.
pub async fn enforce(
    State(quotas): State<Arc<Quotas>>,
    mut request: Request,
    next: Next,
) -> Response {
    if let Some(caller) = quotas.caller(request.extensions()) {
        let limited = Limited { quotas, caller };
        request = match limited.charge(request) {
            Ok(request) => request,
            Err(problem) => return problem.into_response(),
        };
        request.extensions_mut().insert(limited);
    }
    next.run(request).await
}

impl Limited {
    /// Counts a request and its body.
    fn charge(&self, request: Request) -> Result<Request> {
        self.quotas.take_request(&self.caller)?;
        // A JSON body with `Content-Length` is accepted or refused as a whole. Others are counted as they arrive.
        match request.body().size_hint().exact() {
            Some(0) => Ok(request),
            Some(bytes) if bytes <= BODY_BYTES_MAX as u64 => {
                self.quotas.take_bytes(&self.caller, bytes as usize)?;
                Ok(request)
            }
            _ if self.quotas.bytes.is_none() => Ok(request),
            _ => Ok(request.map(|body| Body::new(Metered::new(body, self.clone())))),
        }
    }
}

/// A permit for a stream or long poll of the request's caller.
pub fn stream_permit(request: &Parts) -> Result<Permit<Caller>> {
    let Some(Limited { quotas, caller }) = request.extensions.get() else {
        return Ok(Permit::unlimited());
    };
    let Some(permits) = &quotas.streams else {
        return Ok(Permit::unlimited());
    };
    permits.take(caller.clone()).ok_or_else(|| {
        let detail = format!(
            "this caller has {} streams and long polls open, as many as allowed; close one, or try again after Retry-After",
            permits.max()
        );
        Problem::new(Code::TooManyCallerStreams, detail)
            .retry_after(Duration::from_secs(STREAM_RETRY_S.into()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::caller::Subject;

    fn quotas(loopback: bool) -> Arc<Quotas> {
        Quotas::new(Limits {
            connections: NonZeroU32::new(1),
            loopback,
            ..Limits::default()
        })
    }

    fn caller_of(quotas: &Quotas, peer: &str, subject: Option<&str>) -> Option<Caller> {
        let mut request = Extensions::new();
        request.insert(Peer::Ip(peer.parse().expect("an address")));
        if let Some(subject) = subject {
            request.insert(Subject(subject.into()));
        }
        quotas.caller(&request)
    }

    #[test]
    fn a_caller_is_its_token_subject_or_else_its_address() {
        let quotas = quotas(false);
        let anna = Some(Caller::Subject("anna".into()));
        for peer in ["127.0.0.1", "::1", "203.0.113.1"] {
            assert_eq!(caller_of(&quotas, peer, Some("anna")), anna);
        }
        let address = Some(Caller::Party(Peer::Ip([203, 0, 113, 1].into())));
        assert_eq!(caller_of(&quotas, "203.0.113.1", None), address);
        for peer in ["127.0.0.1", "127.8.8.8", "::1"] {
            assert_eq!(caller_of(&quotas, peer, None), None);
        }
        assert_eq!(quotas.caller(&Extensions::new()), None);
        assert!(caller_of(&self::quotas(true), "127.0.0.1", None).is_some());
    }

    #[test]
    fn connections_from_this_machine_and_from_proxies_are_not_counted() {
        let quotas = quotas(false);
        let proxies = Proxies(vec!["10.0.0.0/8".parse().expect("a network")]);
        let connect = |peer: &str| quotas.connection(Peer::Ip(peer.parse().expect("it")), &proxies);
        for (peer, second) in [("127.0.0.1", true), ("10.1.2.3", true), ("11.1.2.3", false)] {
            let first = connect(peer);
            assert!(first.is_some());
            assert_eq!(connect(peer).is_some(), second, "{peer}");
        }
    }
}
