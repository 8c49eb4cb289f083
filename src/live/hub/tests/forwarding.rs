//! Forwarding: what is sent while the task of a stream waits, and what is left to the task.

use std::{
    pin::Pin,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::live::{Outlet, forward::Forwarder, hub::Forwarded};

/// What a client has received: the times of entries.
type Times = Arc<Mutex<Vec<u64>>>;

/// A socket that takes no more than there is room for. Each entry is a buffer.
struct Socket {
    room: Arc<AtomicUsize>,
    received: Times,
}

fn receive(received: &Times, times: impl IntoIterator<Item = u64>) {
    let mut received = received.lock().expect("no panic");
    received.extend(times);
}

fn time(item: &Arc<Item>) -> u64 {
    item.news.version().time()
}

impl Outlet for Socket {
    fn send(&mut self, items: Vec<Arc<Item>>) -> Vec<Bytes> {
        let times: Vec<u64> = items.iter().map(time).collect();
        let taken = times.len().min(self.room.load(SeqCst));
        self.room.fetch_sub(taken, SeqCst);
        let (taken, left) = times.split_at(taken);
        receive(&self.received, taken.iter().copied());
        let buffer = |time: &u64| Bytes::copy_from_slice(&time.to_be_bytes());
        left.iter().map(buffer).collect()
    }
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// A stream that is live, with its task, which is polled by hand.
struct Driven {
    hub: Arc<Hub>,
    task: Pin<Box<dyn Future<Output = ()>>>,
    wakes: Arc<Wakes>,
    room: Arc<AtomicUsize>,
    received: Times,
    interrupted: Arc<AtomicBool>,
    pushed: u64,
}

impl Driven {
    async fn new() -> Self {
        let hub = Hub::new(Keys::before_opening(b""), Arc::default());
        let mut subscription = live(&hub).await;
        let room = Arc::new(AtomicUsize::new(0));
        let (received, interrupted) = (Times::default(), Arc::new(AtomicBool::new(false)));
        let mut forwarder = Forwarder {
            outlet: Some(Box::new(Socket {
                room: Arc::clone(&room),
                received: Arc::clone(&received),
            })),
            ..Forwarder::default()
        };
        let (interrupt, to) = (Arc::clone(&interrupted), Arc::clone(&received));
        let task = Box::pin(async move {
            loop {
                let found = tokio::select! {
                    biased;
                    () = std::future::poll_fn(|_| match interrupt.swap(false, SeqCst) {
                        true => Poll::Ready(()),
                        false => Poll::Pending,
                    }) => continue,
                    found = subscription.forward(&mut forwarder) => found,
                };
                match found {
                    Forwarded::Unsent(buffers) => {
                        let time = |buffer: Bytes| {
                            u64::from_be_bytes((&*buffer).try_into().expect("8 bytes"))
                        };
                        receive(&to, buffers.into_iter().map(time));
                    }
                    Forwarded::Received(Received::Items(items)) => {
                        let items = forwarder.above_position(items.into_iter());
                        receive(&to, items.iter().map(time));
                    }
                    Forwarded::Received(_) => panic!("nothing was dropped"),
                }
            }
        });
        let mut driven = Self {
            hub,
            task,
            wakes: Arc::default(),
            room,
            received,
            interrupted,
            pushed: 0,
        };
        driven.poll();
        driven
    }

    fn poll(&mut self) {
        self.wakes.0.store(0, SeqCst);
        let waker = Waker::from(Arc::clone(&self.wakes));
        let mut context = Context::from_waker(&waker);
        assert!(self.task.as_mut().poll(&mut context).is_pending());
    }

    async fn push(&mut self) {
        self.pushed += 1;
        dispatch(&self.hub, self.pushed, 1).await;
    }

    fn received(&self) -> Vec<u64> {
        self.received.lock().expect("no panic").clone()
    }

    /// Since the task was polled.
    fn wakes(&self) -> usize {
        self.wakes.0.load(SeqCst)
    }
}

#[tokio::test]
async fn the_task_of_a_stream_is_woken_only_for_what_its_socket_does_not_take() {
    let mut stream = Driven::new().await;
    stream.room.store(3, SeqCst);
    stream.push().await;
    stream.push().await;
    assert!(stream.received().is_empty(), "sent together");
    stream.hub.flush().await;
    assert_eq!((stream.received(), stream.wakes()), (vec![1, 2], 0));
    stream.push().await;
    stream.push().await;
    stream.hub.flush().await;
    assert_eq!((stream.received(), stream.wakes()), (vec![1, 2, 3], 1));
    // There is room again, but what was left comes first.
    stream.room.store(10, SeqCst);
    stream.push().await;
    stream.hub.flush().await;
    assert_eq!(stream.received(), [1, 2, 3]);
    stream.poll();
    assert_eq!(stream.received(), [1, 2, 3, 4, 5]);
    stream.push().await;
    stream.hub.flush().await;
    assert_eq!(stream.received(), [1, 2, 3, 4, 5, 6]);
    assert_eq!(stream.wakes(), 0);
}

#[derive(Debug, Clone)]
enum Step {
    Push,
    Flush,
    Poll,
    /// The task stops waiting and begins again.
    Interrupt,
    Room(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Push),
        3 => Just(Step::Flush),
        2 => Just(Step::Poll),
        1 => Just(Step::Interrupt),
        2 => (0..6_usize).prop_map(Step::Room),
    ]
}

proptest! {
    /// Whoever sends, and however often that changes: each entry once, in order.
    #[test]
    fn a_stream_and_its_outlet_send_everything_once_and_in_order(steps in vec(step(), 0..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let mut stream = Driven::new().await;
            for step in steps {
                match step {
                    Step::Push => stream.push().await,
                    Step::Flush => stream.hub.flush().await,
                    Step::Poll => stream.poll(),
                    Step::Interrupt => stream.interrupted.store(true, SeqCst),
                    Step::Room(room) => stream.room.store(room, SeqCst),
                }
                let received = stream.received();
                prop_assert!(received.iter().copied().eq(1..=received.len() as u64), "{received:?}");
            }
            stream.hub.flush().await;
            // A task is polled only if it was woken.
            if stream.wakes() > 0 {
                stream.poll();
            }
            prop_assert_eq!(stream.received().len() as u64, stream.pushed);
            Ok(())
        })?;
    }
}
