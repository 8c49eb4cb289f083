//! Readers that we did not write, each over HTTP/1.1 and, if it can, over HTTP/2 (browsers with TLS, all others without,
//! by prior knowledge). Each does what a client does: it asks for vN, reads the history up to vN, follows from vN while
//! events are being appended, and after a broken stream comes back in its own way. It must have had exactly what was
//! appended.

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

/// Entries heard between two changes of the service's fortune.
const STRETCH: usize = 60;
/// Reconnections that cuts must have forced on each reader.
const CUTS: usize = 15;
/// The same over TLS, where nobody can shorten the 2 s that clients are asked to wait.
const CUTS_OVER_TLS: usize = 5;

/// Killed while it serves, then stopped as an operator does, each time started again at the same address.
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

/// Its streams break off at any byte, again and again.
async fn misses_nothing_when_its_streams_are_cut(client: Client) {
    if !client.is_here() {
        return;
    }
    // Chromium takes half a head for a whole one, and one without the right type for an answer that will not change.
    let spare_heads = client == Client::Chromium;
    let mut scene = Scene::set_behind_a_cutter(client.over_tls(), spare_heads).await;
    scene.read(client).await;
    scene.cut(true);
    let cuts = if client.over_tls() {
        CUTS_OVER_TLS
    } else {
        CUTS
    };
    while scene.readers.iter().any(|reader| reader.opened() < cuts) {
        scene.heard_further(STRETCH).await;
    }
    scene.cut(false);
    // Those sent while a stream is away are lost to it; all of them may have been.
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
    pypi_httpx_sse PypiHttpxSse,
    crate_eventsource_client RustEventsource,
    curl Curl,
}
