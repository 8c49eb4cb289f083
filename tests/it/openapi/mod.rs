//! `openapi.yaml` compared with the router and with real answers.

mod access;
mod answers;
mod file;
mod spec;
