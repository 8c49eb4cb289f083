//! What readers see, compared with a plain model: pages, streams that resume, and duplicates that nobody sees.

mod paging;
mod races;
mod resume;
mod twins;
