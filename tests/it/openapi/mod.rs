//! Router, file and real answers held against each other: `openapi.yaml` is the API.

mod access;
mod answers;
mod file;
mod spec;
