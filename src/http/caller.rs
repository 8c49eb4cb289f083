//! Who sent a request, as extensions of it: what limits, rights and logs go by.

use std::{net::IpAddr, sync::Arc};

/// The address at the other end of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub IpAddr);

/// Whom a request's credentials name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject(pub Arc<str>);
