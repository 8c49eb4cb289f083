//! Edits, erasures and retention: what readers are told, and that nothing remains.

mod changes;
mod checks;
mod model;
mod races;
mod retention;
mod run;
mod soak;
mod sweeps;

use newsfeed::types::Data;
use serde_json::value::RawValue;

pub fn data(json: &str) -> Data {
    let raw = RawValue::from_string(json.to_owned()).expect("JSON");
    Data::from_raw(&raw).expect("valid")
}
