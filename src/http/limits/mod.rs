//! Limits of what callers use: rates of requests and of body bytes, numbers of open streams and connections, and memory for
//! answers and bodies. Exceeding a limit of one's own returns 429 (a connection is closed), and other callers are
//! unaffected; exceeding a total of the node returns 503.

mod memory;
mod metered;
mod permits;
mod rate;
mod request;
mod stored;

use std::{borrow::Cow, num::NonZeroU32, sync::Arc, time::Duration};

use axum::http::Extensions;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

pub use self::{
    memory::{Budget, Reserved},
    metered::OverBytes,
    permits::Permit,
    rate::PER_S_MAX,
    request::{Enforce, Limited, stream_permit},
    stored::{Charge, Storing},
};
use self::{
    memory::{Holds, Memory},
    permits::Permits,
    rate::Rate,
    stored::Stored,
};
use super::{
    body::BODY_BYTES_MAX,
    caller::{Caller, Peer, Subject},
    problem::{Code, Problem, Result},
    proxies::Proxies,
};
use crate::metrics::Metrics;

/// The burst of requests, in seconds of the steady rate.
const REQUESTS_BURST_S: u32 = 2;
/// The burst of body bytes, in seconds of the steady rate; at least one whole JSON body.
const BYTES_BURST_S: u32 = 4;
/// `Retry-After` for a refused stream. When one of the caller's streams will end is unknown.
const STREAM_RETRY_S: u32 = 5;
/// Requests over HTTP/2 that a node has under way. Each takes about as much memory as a connection, of which there may be as
/// many.
pub const HTTP2_REQUESTS_MAX: usize = 100_000;
/// How often the state of idle callers is dropped.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// The limits of a node and of one caller; `None` is no limit.
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
    /// Open connections from one address, and its requests over HTTP/2 that are under way: a connection can have many.
    pub connections: Option<NonZeroU32>,
    /// Memory for answers that have not been read.
    pub answers: Budget,
    /// Memory for request bodies.
    pub bodies: Budget,
    /// The limits of an IPv6 network, all its addresses together.
    pub network: Option<NetworkLimits>,
    /// Whether the limits also apply to requests from this machine without a token.
    pub loopback: bool,
}

/// The limits of an IPv6 network: those of `callers` callers.
#[derive(Debug, Clone, Copy)]
pub struct NetworkLimits {
    pub bits: u8,
    pub callers: NonZeroU32,
}

/// To whom a limit applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Caller,
    Network,
    Node,
}

impl Of {
    fn label(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Network => "network",
            Self::Node => "node",
        }
    }

    /// As the subject of a sentence.
    fn subject(self) -> &'static str {
        match self {
            Self::Caller => "this caller",
            Self::Network => "the IPv6 network of this caller",
            Self::Node => "this node",
        }
    }
}

/// What each caller or network has used of its limits.
struct Used {
    of: Of,
    requests: Option<Rate>,
    bytes: Option<Rate>,
    streams: Option<Arc<Permits<Caller>>>,
    connections: Option<Arc<Permits<Caller>>>,
    stored: Stored,
    http2_requests: Option<Arc<Permits<Caller>>>,
}

impl Used {
    fn new(of: Of, limits: &Limits, callers: u32) -> Self {
        let times = |limit: Option<NonZeroU32>| {
            limit.and_then(|limit| NonZeroU32::new(limit.get().saturating_mul(callers)))
        };
        let rate = |per_s, burst_s, burst_min| {
            let per_s = times(per_s)?.min(NonZeroU32::new(PER_S_MAX)?);
            let burst = per_s.get().saturating_mul(burst_s).max(burst_min);
            Some(Rate::new(per_s, burst))
        };
        Self {
            of,
            requests: rate(limits.requests_per_s, REQUESTS_BURST_S, 1),
            bytes: rate(limits.bytes_per_s, BYTES_BURST_S, BODY_BYTES_MAX as u32),
            streams: times(limits.streams).map(Permits::new),
            connections: times(limits.connections).map(Permits::new),
            stored: Stored::new(times(limits.events_per_s), times(limits.stored_bytes_per_s)),
            http2_requests: times(limits.connections).map(Permits::new),
        }
    }
}

/// What callers have used of their limits.
pub struct Quotas {
    limits: Limits,
    callers: Used,
    networks: Option<Used>,
    /// Of the node.
    http2_requests: Arc<Semaphore>,
    answers: Arc<Memory>,
    bodies: Arc<Memory>,
    metrics: Arc<Metrics>,
}

/// A permit for a request over HTTP/2. Held until its client has taken the answer.
pub struct Http2Permit {
    _of_peer: Permit<Caller>,
    _of_node: OwnedSemaphorePermit,
}

impl Quotas {
    pub fn new(limits: Limits, metrics: &Arc<Metrics>) -> Arc<Self> {
        let network_callers = limits.network.map(|network| network.callers.get());
        let memory = |holds, budget| {
            let callers = network_callers.map(|callers| callers as usize);
            Memory::new(holds, budget, callers, Arc::clone(metrics))
        };
        Arc::new(Self {
            callers: Used::new(Of::Caller, &limits, 1),
            networks: network_callers.map(|callers| Used::new(Of::Network, &limits, callers)),
            http2_requests: Arc::new(Semaphore::new(HTTP2_REQUESTS_MAX)),
            answers: memory(Holds::Answers, limits.answers),
            bodies: memory(Holds::Bodies, limits.bodies),
            metrics: Arc::clone(metrics),
            limits,
        })
    }

    /// A permit for a connection; `None` if its peer has as many as allowed. Trusted proxies are exempt, because they
    /// connect for many clients.
    pub fn connection(&self, peer: Peer, proxies: &Proxies) -> Option<Permit<Caller>> {
        if !self.applies_to(peer) || proxies.trust(peer) {
            return Some(Permit::unlimited());
        }
        let caller = Caller::Party(peer.party());
        self.permit("connections", &caller, |used| used.connections.as_ref())
            .ok()
    }

    /// A permit for a request over HTTP/2; `None` if `peer`, or the node, has as many under way as allowed. Such a request
    /// counts as one all the same.
    pub fn http2_request(&self, peer: Peer) -> Option<Http2Permit> {
        let caller = Caller::Party(peer.party());
        let limited = self.applies_to(peer);
        let of_peer = match limited {
            true => self.permit("http2_requests", &caller, |used| {
                used.http2_requests.as_ref()
            }),
            false => Ok(Permit::unlimited()),
        };
        let of_node = || {
            let room = Arc::clone(&self.http2_requests).try_acquire_owned();
            room.inspect_err(|_| {
                self.metrics
                    .limits
                    .exceeded("http2_requests", Of::Node.label());
            })
        };
        let permit = of_peer.ok().and_then(|of_peer| {
            Some(Http2Permit {
                _of_peer: of_peer,
                _of_node: of_node().ok()?,
            })
        });
        if permit.is_none() && limited {
            // It is refused already.
            let _ = self.take_request(&caller);
        }
        permit
    }

    /// Drops the state of idle callers periodically, until `stop`.
    pub async fn sweep(&self, stop: CancellationToken) {
        let pause = || stop.run_until_cancelled(tokio::time::sleep(SWEEP_EVERY));
        while pause().await.is_some() {
            for used in [Some(&self.callers), self.networks.as_ref()]
                .into_iter()
                .flatten()
            {
                let rates = [&used.requests, &used.bytes].into_iter().flatten();
                rates.for_each(Rate::sweep);
                used.stored.sweep();
            }
        }
    }

    fn applies_to(&self, peer: Peer) -> bool {
        self.limits.loopback || !peer.is_local()
    }

    /// The caller whose limits apply to a request; `None` if none apply. They apply to every token, also one without a
    /// subject that comes from this machine: otherwise whoever has one could escape them.
    fn caller(&self, request: &Extensions) -> Option<Caller> {
        let has_token = request.get::<Subject>().is_some();
        let exempt = |peer: &Peer| !has_token && !self.applies_to(*peer);
        Caller::of(request).filter(|_| !request.get().is_some_and(exempt))
    }

    /// The network of a caller whose limits apply, too.
    fn network(&self, caller: &Caller) -> Option<Caller> {
        caller.network(self.limits.network?.bits)
    }

    /// The caller, and its network if that has limits.
    fn levels<'a>(
        &'a self,
        caller: &'a Caller,
    ) -> impl Iterator<Item = (&'a Used, Cow<'a, Caller>)> {
        let network = self.network(caller).map(Cow::Owned);
        let network = self.networks.as_ref().zip(network);
        [(&self.callers, Cow::Borrowed(caller))]
            .into_iter()
            .chain(network)
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
        self.take(Code::TooManyRequests, caller, 1, |used| {
            used.requests.as_ref()
        })
    }

    fn take_bytes(&self, caller: &Caller, bytes: usize) -> Result<()> {
        self.take(Code::TooManyBytes, caller, bytes, |used| {
            used.bytes.as_ref()
        })
    }

    fn meters_bytes(&self) -> bool {
        self.limits.bytes_per_s.is_some()
    }

    fn take(
        &self,
        code: Code,
        caller: &Caller,
        count: usize,
        rate: impl Fn(&Used) -> Option<&Rate>,
    ) -> Result<()> {
        for (used, caller) in self.levels(caller) {
            let Some(rate) = rate(used) else { continue };
            let taken = rate.take(&caller, count);
            taken.map_err(|wait| self.over_rate(code, used.of, rate, wait))?;
        }
        Ok(())
    }

    fn over_rate(&self, code: Code, of: Of, rate: &Rate, wait: Duration) -> Problem {
        let Rate { per_s, burst, .. } = rate;
        let (limit, unit, advice) = match code {
            Code::TooManyBytes => ("bytes", "body bytes/s", "send the rest"),
            _ => ("requests", "requests/s", "try again"),
        };
        self.metrics.limits.exceeded(limit, of.label());
        let of = of.subject();
        let detail = format!(
            "{of} may send {per_s} {unit}, in bursts of up to {burst}; {advice} after Retry-After"
        );
        Problem::new(code, detail).retry_after(wait)
    }

    /// A permit for a stream or long poll.
    fn stream(&self, caller: &Caller) -> Result<Permit<Caller>> {
        let permit = self.permit("streams", caller, |used| used.streams.as_ref());
        permit.map_err(|(of, max)| {
            let of = of.subject();
            let detail = format!(
                "{of} has {max} streams and long polls open, as many as allowed; close one, or try again after Retry-After"
            );
            Problem::new(Code::TooManyCallerStreams, detail)
                .retry_after(Duration::from_secs(STREAM_RETRY_S.into()))
        })
    }

    /// A permit of the caller and of its network, or whose limit is exceeded and what it is.
    fn permit(
        &self,
        limit: &'static str,
        caller: &Caller,
        permits: impl Fn(&Used) -> Option<&Arc<Permits<Caller>>>,
    ) -> std::result::Result<Permit<Caller>, (Of, NonZeroU32)> {
        let mut permit = Permit::unlimited();
        for (used, caller) in self.levels(caller) {
            let Some(permits) = permits(used) else {
                continue;
            };
            let Some(taken) = permits.take(caller.into_owned()) else {
                self.metrics.limits.exceeded(limit, used.of.label());
                return Err((used.of, permits.max()));
            };
            permit = taken.and(permit);
        }
        Ok(permit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quotas(loopback: bool) -> Arc<Quotas> {
        Quotas::new(
            Limits {
                connections: NonZeroU32::new(1),
                loopback,
                ..Limits::default()
            },
            &Arc::default(),
        )
    }

    /// `subject` is the `sub` of the token, if there is a token.
    fn caller_of(quotas: &Quotas, peer: &str, subject: Option<Option<&str>>) -> Option<Caller> {
        let mut request = Extensions::new();
        request.insert(Peer::Ip(peer.parse().expect("an address")));
        if let Some(subject) = subject {
            request.insert(Subject(subject.map(Into::into)));
        }
        quotas.caller(&request)
    }

    #[test]
    fn a_caller_is_its_token_subject_or_else_its_address() {
        let quotas = quotas(false);
        let anna = Some(Caller::Subject("anna".into()));
        for peer in ["127.0.0.1", "::1", "203.0.113.1"] {
            assert_eq!(caller_of(&quotas, peer, Some(Some("anna"))), anna);
        }
        let address = |ip: [u8; 4]| Some(Caller::Party(Peer::Ip(ip.into())));
        let outside = address([203, 0, 113, 1]);
        for token in [None, Some(None)] {
            assert_eq!(caller_of(&quotas, "203.0.113.1", token), outside);
        }
        let inside = address([127, 0, 0, 1]);
        assert_eq!(caller_of(&quotas, "127.0.0.1", Some(None)), inside);
        for peer in ["127.0.0.1", "127.8.8.8", "::1"] {
            assert_eq!(caller_of(&quotas, peer, None), None);
        }
        assert_eq!(quotas.caller(&Extensions::new()), None);
        assert!(caller_of(&self::quotas(true), "127.0.0.1", None).is_some());
    }

    #[test]
    fn http2_requests_have_a_limit_for_each_address_and_for_the_node() {
        let quotas = quotas(false);
        let request = |peer: &str| quotas.http2_request(Peer::Ip(peer.parse().expect("it")));
        let first = request("203.0.113.1").expect("a permit");
        assert!(request("203.0.113.1").is_none());
        let _other = request("203.0.113.2").expect("a permit");
        drop(first);
        let first = request("203.0.113.1").expect("given back");
        let local: Vec<_> = (2..HTTP2_REQUESTS_MAX)
            .map(|_| request("127.0.0.1").expect("a permit"))
            .collect();
        assert!(request("203.0.113.3").is_none());
        assert!(request("127.0.0.1").is_none());
        drop(first);
        assert!(request("203.0.113.3").is_some());
        drop(local);
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
