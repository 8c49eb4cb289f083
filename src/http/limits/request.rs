//! The limits of the request that is being answered: enforced before its handler runs, and found by the handler in the
//! request's extensions.

use std::{
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    body::{Body, HttpBody},
    extract::Request,
    http::{Extensions, request::Parts},
    response::{IntoResponse, Response},
};
use futures_util::future::Either;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    Permit, Quotas,
    memory::{Memory, Reserved},
    metered::Metered,
};
use crate::http::{
    body::{BODY_BYTES_MAX, lingering},
    caller::Caller,
    problem::{Code, Problem, Result},
};

/// The layer that enforces the limits of one operation.
#[derive(Clone)]
pub struct Enforce {
    pub quotas: Arc<Quotas>,
    /// Longest JSON body that the operation reads, in bytes.
    pub body_bytes_max: usize,
}

/// The limits of a request, in its extensions.
#[derive(Clone)]
pub struct Limited {
    pub(super) quotas: Arc<Quotas>,
    /// `None`: only the totals of the node apply.
    pub(super) caller: Option<Caller>,
    body_bytes_max: usize,
}

impl<S> Layer<S> for Enforce {
    type Service = Enforced<S>;

    fn layer(&self, inner: S) -> Enforced<S> {
        Enforced {
            enforce: self.clone(),
            inner,
        }
    }
}

/// Enforces the caller's rates of requests and of body bytes, and passes the limits on to the handler.
#[derive(Clone)]
pub struct Enforced<S> {
    enforce: Enforce,
    inner: S,
}

impl<S: Service<Request, Response = Response>> Service<Request> for Enforced<S> {
    type Response = Response;
    type Error = S::Error;
    // Written out, because an `async fn` as a layer takes several allocations for each request.
    type Future = Either<S::Future, Ready<std::result::Result<Response, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<std::result::Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let Enforce {
            quotas,
            body_bytes_max,
        } = &self.enforce;
        let limited = Limited {
            caller: quotas.caller(request.extensions()),
            quotas: Arc::clone(quotas),
            body_bytes_max: *body_bytes_max,
        };
        match limited.charge(request) {
            Ok(mut request) => {
                request.extensions_mut().insert(limited);
                Either::Left(self.inner.call(request))
            }
            Err(problem) => Either::Right(ready(Ok(problem.into_response()))),
        }
    }
}

impl Quotas {
    /// Counts a request that is refused before [`Enforce`] against whoever is known to have sent it, and lets go of its
    /// body. `counted` says that it was counted before. Returns the answer.
    pub fn refuse(
        self: &Arc<Self>,
        request: &Extensions,
        body: Body,
        problem: Problem,
        counted: bool,
    ) -> Problem {
        let limited = Limited {
            quotas: Arc::clone(self),
            caller: self.caller(request),
            body_bytes_max: 0,
        };
        let taken = match counted {
            true => Ok(()),
            false => limited.take_request(),
        };
        // Dropped here, and so read for a while.
        drop(lingering(limited.metered(body)));
        taken.err().unwrap_or(problem)
    }
}

impl Limited {
    /// Fails if the request did not pass [`Enforce`], so that no route goes without limits.
    pub fn of(request: &Parts) -> Result<&Self> {
        let limited = request.extensions.get();
        limited
            .ok_or_else(|| Problem::new(Code::Internal, "the limits of this request are not known"))
    }

    fn take_request(&self) -> Result<()> {
        match &self.caller {
            Some(caller) => self.quotas.take_request(caller),
            None => Ok(()),
        }
    }

    /// Counts a request and its body. Whatever happens to the body, its rest is read for a while.
    fn charge(&self, request: Request) -> Result<Request> {
        if let Err(problem) = self.take_request() {
            drop(lingering(self.metered(request.into_body())));
            return Err(problem);
        }
        if request.body().is_end_stream() {
            return Ok(request);
        }
        // A JSON body with `Content-Length` is accepted or refused as a whole. Others are counted as they arrive.
        let whole = request.body().size_hint().exact();
        let whole = whole.filter(|&bytes| bytes <= BODY_BYTES_MAX as u64);
        match (whole, &self.caller) {
            (Some(bytes), Some(caller)) => {
                let taken = self.quotas.take_bytes(caller, bytes as usize);
                let request = request.map(lingering);
                taken.map(|()| request)
            }
            _ => Ok(request.map(|body| lingering(self.metered(body)))),
        }
    }

    /// `body`, throttled to the caller's rate.
    fn metered(&self, body: Body) -> Body {
        match &self.caller {
            Some(caller) if self.quotas.meters_bytes() && !body.is_end_stream() => {
                Body::new(Metered::new(body, Arc::clone(&self.quotas), caller.clone()))
            }
            _ => body,
        }
    }

    /// Longest JSON body, in bytes.
    pub fn body_bytes_max(&self) -> usize {
        self.body_bytes_max
    }

    /// Memory for the answer; nothing is taken yet.
    pub fn answer(&self) -> Reserved {
        self.reserved(&self.quotas.answers)
    }

    /// Memory for the body; nothing is taken yet.
    pub fn body(&self) -> Reserved {
        self.reserved(&self.quotas.bodies)
    }

    fn reserved(&self, memory: &Arc<Memory>) -> Reserved {
        let caller = self.caller.as_ref();
        let network = caller.and_then(|caller| self.quotas.network(caller));
        memory.account(caller, network.as_ref())
    }

    /// A permit for a stream or long poll.
    fn stream_permit(&self) -> Result<Permit<Caller>> {
        match &self.caller {
            Some(caller) => self.quotas.stream(caller),
            None => Ok(Permit::unlimited()),
        }
    }
}

/// A permit for a stream or long poll of the request's caller.
pub fn stream_permit(request: &Parts) -> Result<Permit<Caller>> {
    Limited::of(request)?.stream_permit()
}
