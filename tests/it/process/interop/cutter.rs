//! A proxy that cuts connections after a random number of bytes from the service.

use std::{
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use memchr::memmem;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    io::{self, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Bytes before a cut, as powers of two: from less than a head to several times the largest HTTP/2 frame. (Many clients
/// process only complete frames.)
const BYTES_LOG2: RangeInclusive<u32> = 4..=16;

pub struct Cutter {
    address: String,
    rule: Arc<Rule>,
    /// Ends when the cutter is dropped.
    _serving: JoinSet<()>,
}

struct Rule {
    target: String,
    cutting: AtomicBool,
    /// Heads of HTTP/1.1 answers are not cut.
    spare_heads: bool,
}

impl Cutter {
    pub async fn start(target: &str, spare_heads: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let rule = Arc::new(Rule {
            target: target.to_owned(),
            cutting: AtomicBool::new(false),
            spare_heads,
        });
        let seed = rand::random();
        println!("cuts by seed {seed}");
        let mut serving = JoinSet::new();
        serving.spawn(serve(
            listener,
            Arc::clone(&rule),
            StdRng::seed_from_u64(seed),
        ));
        Self {
            address,
            rule,
            _serving: serving,
        }
    }

    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// Starts or stops cutting connections.
    pub fn cut(&self, cutting: bool) {
        self.rule.cutting.store(cutting, Ordering::Relaxed);
    }
}

async fn serve(listener: TcpListener, rule: Arc<Rule>, mut rng: StdRng) {
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.expect("a connection");
        let log2 = rng.random_range(BYTES_LOG2);
        let bytes = rng.random_range(1..=1 << log2);
        connections.spawn(pass(client, bytes, Arc::clone(&rule)));
    }
}

/// Passes bytes in both directions; while cutting, only `left` more from the service.
async fn pass(client: TcpStream, mut left: usize, rule: Arc<Rule>) {
    let service = TcpStream::connect(&rule.target).await.expect("the service");
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_service, mut to_service) = service.into_split();
    let down = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = from_service.read(&mut buffer).await?;
            let mut bytes = &mut buffer[..length];
            // Shortens the time that clients are asked to wait to 20 ms.
            if let Some(at) = memmem::find(bytes, b"retry: ") {
                let digits = bytes[at + 7..].iter_mut();
                let digits = digits.take_while(|byte| byte.is_ascii_digit());
                let digits: Vec<&mut u8> = digits.collect();
                for (digit, place) in digits.into_iter().rev().zip(0..) {
                    *digit = if place == 1 { b'2' } else { b'0' };
                }
            }
            if rule.cutting.load(Ordering::Relaxed) {
                if rule.spare_heads && bytes.starts_with(b"HTTP/1.1 ") {
                    left = left.max(memmem::find(bytes, b"\r\n\r\n").map_or(0, |end| end + 4));
                }
                let passed = length.min(left);
                left -= passed;
                bytes = &mut bytes[..passed];
            }
            to_client.write_all(bytes).await?;
            if length == 0 || left == 0 {
                return io::Result::Ok(());
            }
        }
    };
    // The end of either direction ends both.
    tokio::select! {
        _ = down => {}
        _ = io::copy(&mut from_client, &mut to_service) => {}
    }
}
