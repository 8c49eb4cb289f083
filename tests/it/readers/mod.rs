//! What readers see, compared with a simple model: pages, resumed streams, and twins, which nobody sees.

mod lineage;
mod log;
mod of_event;
mod paging;
mod races;
mod resume;
mod states;
mod twins;
