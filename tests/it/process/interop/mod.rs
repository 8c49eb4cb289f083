//! Third-party SSE clients, each over HTTP/1.1 and, if it can, over HTTP/2 (browsers with TLS, all others without, by
//! prior knowledge). Each asks for vN, reads the history up to vN, follows from vN while events are appended, and
//! reconnects in its own way. It must receive exactly what was appended.

mod clients;
mod cutter;
mod heard;
mod in_process;
mod scene;
mod scripts;
mod writer;

use self::{
    clients::{Client, Reader},
    scene::Scene,
};

const FEED: &str = "user:ben";

/// Entries that each reader receives between two disturbances.
const STRETCH: usize = 60;
/// Number of streams that each reader must have opened because of cuts.
const CUTS: usize = 15;
/// The same where clients wait for seconds: over TLS, where the cutter cannot shorten the time they are asked to wait, and by
/// their own rule.
const CUTS_OF_SLOW_CLIENTS: usize = 5;

/// The service is killed, later stopped with SIGTERM, and each time restarted at the same address.
async fn misses_nothing_when_the_service_is_restarted(client: Client) {
    if !client.is_here() {
        return;
    }
    let mut scene = Scene::set(client.over_tls()).await;
    scene.read(client).await;
    scene.heard_further(STRETCH).await;

    scene.kill_and_start().await;
    scene.heard_further(STRETCH).await;

    scene.stop_and_start().await;
    scene.heard_further(STRETCH).await;
    scene.end().await;
}

/// Streams are cut off at random bytes, repeatedly.
async fn misses_nothing_when_its_streams_are_cut(client: Client) {
    if !client.is_here() {
        return;
    }
    // Chromium treats an incomplete head as complete, and gives up if the content type is missing.
    let spare_heads = client == Client::Chromium;
    let mut scene = Scene::set_behind_a_cutter(client.over_tls(), spare_heads).await;
    scene.read(client).await;
    scene.cut(true);
    let cuts = if client.over_tls() || client == Client::NpmPolyfill {
        CUTS_OF_SLOW_CLIENTS
    } else {
        CUTS
    };
    while scene.readers.iter().any(|reader| reader.opened() < cuts) {
        scene.heard_further(STRETCH).await;
    }
    scene.cut(false);
    // A reader misses transients while it is disconnected; so far it may have missed all.
    for _ in 0..20 {
        if scene.readers.iter().all(Reader::has_heard_a_transient) {
            break;
        }
        scene.heard_further(STRETCH).await;
    }
    scene.end().await;
}

macro_rules! tested {
    ($($name:ident $client:ident,)+) => { $(
        mod $name {
            use super::Client;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn misses_nothing_when_the_service_is_restarted() {
                super::misses_nothing_when_the_service_is_restarted(Client::$client).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn misses_nothing_when_its_streams_are_cut() {
                super::misses_nothing_when_its_streams_are_cut(Client::$client).await;
            }
        }
    )+ };
}

tested! {
    chromium Chromium,
    chromium_over_tls ChromiumTls,
    npm_eventsource NpmEventsource,
    npm_event_source_polyfill NpmPolyfill,
    pypi_httpx_sse PypiHttpxSse,
    crate_eventsource_client RustEventsource,
    curl Curl,
}
