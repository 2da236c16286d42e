//! Tests of apps: [`TestSession`] runs one session in virtual time, without a cluster.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use single_state_proto::channel::Input;
use single_state_proto::frame::{CloseCode, Open, Opened, Refused, ResetCode};
use single_state_proto::id::{
    Attach, ConnectionId, Epoch, Generation, InputNumber, Revision, WorkerIndex,
};
use single_state_proto::limits::{MAX_MESSAGE, WINDOW};
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::task::LocalSet;

use crate::Bytes;
use crate::host::Host;
use crate::registry::Registry;
use crate::resident::{Attachment, Tab};
use crate::session::Session;
use crate::store::memory::MemoryStore;

/// Virtual time that a handler may take before a test gives up on it.
const PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);

/// One session, as its tabs see it. Time stands still except in [`TestSession::advance`] and while
/// a handler waits for time; [`Context::compute`] computes at once and takes none.
///
/// ```
/// # use single_state_worker::{Context, Result, Session};
/// # #[derive(Default, serde::Serialize, serde::Deserialize)] struct Counter { count: i64 }
/// # #[derive(serde::Deserialize)] #[serde(tag = "tag", rename_all = "snake_case")]
/// # enum Message { Add { n: i64 } }
/// # impl Session for Counter {
/// #     type Message = Message;
/// #     async fn handle(&mut self, message: Message, ctx: &mut Context) -> Result<()> {
/// #         let Message::Add { n } = message;
/// #         self.count += n;
/// #         ctx.assign("count", &self.count)
/// #     }
/// # }
/// use serde_json::json;
/// use single_state_worker::testing::TestSession;
///
/// let session = TestSession::<Counter>::new();
/// session.send(json!({"tag": "add", "n": 2}));
/// session.send(json!({"tag": "add", "n": 3}));
/// assert_eq!(session.mirror()["count"], 5);
/// ```
///
/// [`Context::compute`]: crate::Context::compute
pub struct TestSession<S> {
    world: Rc<World>,
    first: TestTab,
    app: std::marker::PhantomData<S>,
}

struct World {
    runtime: Runtime,
    tasks: LocalSet,
    registry: Rc<Registry>,
    tabs: Cell<u64>,
}

/// One tab of a [`TestSession`].
pub struct TestTab {
    world: Rc<World>,
    wire: Rc<Wire>,
    sent: Cell<u64>,
}

impl<S> std::fmt::Debug for TestSession<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestSession").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for TestTab {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestTab").finish_non_exhaustive()
    }
}

impl<S: Session> Default for TestSession<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: Session> TestSession<S> {
    /// A new session with one tab, of an app that shares nothing.
    pub fn new() -> Self {
        Self::with_shared(())
    }

    /// A new session with one tab; `shared` is what [`App::new`](crate::App::new) would get.
    pub fn with_shared<T: Send + Sync + 'static>(shared: T) -> Self {
        let shared: Arc<dyn Any + Send + Sync> = Arc::new(shared);
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().start_paused(true).build();
        let runtime = runtime.expect("a test needs a runtime");
        let store = Rc::new(MemoryStore::default());
        let host = Host::new(WorkerIndex(0), store, shared, MAX_MESSAGE as usize);
        let host = Host { cores: None, ..host };
        let registry = Registry::new::<S>(Rc::new(host));
        let (tasks, tabs) = (LocalSet::new(), Cell::new(0));
        let world = Rc::new(World { runtime, tasks, registry, tabs });
        let first = TestTab::connect(&world);
        Self { world, first, app: std::marker::PhantomData }
    }

    /// Connects one more tab.
    pub fn tab(&self) -> TestTab {
        TestTab::connect(&self.world)
    }

    /// Sends a message from the first tab, and returns when it is handled.
    pub fn send(&self, message: Value) {
        self.first.send(message);
    }

    /// Sends any text from the first tab, and returns when it is handled.
    pub fn send_text(&self, text: &str) {
        self.first.send_text(text);
    }

    /// Sends a binary message from the first tab, and returns when it is handled.
    pub fn send_binary(&self, bytes: impl Into<Bytes>) {
        self.first.send_binary(bytes);
    }

    /// Lets time go by: what is scheduled within it happens.
    pub fn advance(&self, duration: Duration) {
        self.world.block_on(async { tokio::time::sleep(duration).await });
    }

    /// What the first tab has got since the last call, in order. Binary messages are arrays of
    /// their bytes.
    pub fn outputs(&self) -> Vec<Value> {
        self.first.outputs()
    }

    /// What the first tab has been assigned: key to newest value.
    pub fn mirror(&self) -> Map<String, Value> {
        self.first.mirror()
    }

    /// Whether the first tab's connection is open; it is not when the app has ended the session.
    pub fn is_open(&self) -> bool {
        self.first.is_open()
    }
}

impl World {
    fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.tasks.block_on(&self.runtime, future)
    }
}

impl TestTab {
    fn connect(world: &Rc<World>) -> Self {
        let number = world.tabs.get() + 1;
        world.tabs.set(number);
        let open = Open {
            session: "test".parse().expect("an id"),
            channel: format!("test-tab-{number}").parse().expect("an id"),
            attach: Attach(1),
            connection: ConnectionId(number),
            generation: Generation(1),
            skipped: Vec::new(),
            seen: None,
            min_epoch: Epoch(0),
            fresh: number == 1,
            recovered: false,
            window: WINDOW,
            identity: None,
        };
        let wire = Rc::new(Wire::default());
        let tab = Self { world: world.clone(), wire: wire.clone(), sent: Cell::new(0) };
        world.block_on(async {
            world.registry.open(Box::new(open), wire.clone());
            tab.wait_for("attach a tab", |state| state.attachment.is_some()).await;
        });
        tab
    }

    /// Sends a message, and returns when it is handled.
    pub fn send(&self, message: Value) {
        self.send_text(&message.to_string());
    }

    /// Sends any text, and returns when it is handled.
    pub fn send_text(&self, text: &str) {
        self.input(false, Bytes::copy_from_slice(text.as_bytes()));
    }

    /// Sends a binary message, and returns when it is handled.
    pub fn send_binary(&self, bytes: impl Into<Bytes>) {
        self.input(true, bytes.into());
    }

    fn input(&self, binary: bool, body: Bytes) {
        let number = InputNumber(self.sent.get()).next();
        self.sent.set(number.0);
        let attachment = self.wire.state.borrow().attachment.clone();
        let attachment = attachment.expect("this tab's connection is closed");
        self.world.block_on(async {
            attachment.receive(Input { number, binary, body });
            let handled = |state: &WireState| state.acked >= number || state.closed;
            self.wait_for("handle a message", handled).await;
        });
    }

    async fn wait_for(&self, what: &str, done: impl Fn(&WireState) -> bool) {
        let waiting = async {
            while !done(&self.wire.state.borrow()) {
                self.wire.changed.notified().await;
            }
        };
        if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
            panic!("the session did not {what} within a day of its own time");
        }
    }

    /// What this tab has got since the last call, in order. Binary messages are arrays of their
    /// bytes.
    pub fn outputs(&self) -> Vec<Value> {
        self.wire.state.borrow_mut().outputs.drain(..).collect()
    }

    /// What this tab has been assigned: key to newest value.
    pub fn mirror(&self) -> Map<String, Value> {
        self.wire.state.borrow().mirror.clone()
    }

    /// Whether its connection is open.
    pub fn is_open(&self) -> bool {
        !self.wire.state.borrow().closed
    }

    /// Closes the tab.
    pub fn close(self) {
        let attachment = self.wire.state.borrow_mut().attachment.take();
        self.world.block_on(async {
            if let Some(attachment) = attachment {
                attachment.end();
            }
        });
    }
}

/// A tab's end of its connection.
#[derive(Default)]
struct Wire {
    state: RefCell<WireState>,
    changed: Notify,
}

#[derive(Default)]
struct WireState {
    attachment: Option<Attachment>,
    acked: InputNumber,
    outputs: VecDeque<Value>,
    mirror: Map<String, Value>,
    closed: bool,
}

impl Wire {
    fn change(&self, change: impl FnOnce(&mut WireState)) {
        change(&mut self.state.borrow_mut());
        self.changed.notify_one();
    }
}

impl Tab for Wire {
    fn opened(&self, _: Opened, attachment: Attachment) {
        self.change(|state| state.attachment = Some(attachment));
    }

    fn is_wanted(&self) -> bool {
        true
    }

    fn refused(&self, refused: Refused) {
        panic!("the session refuses a tab: {refused:?}");
    }

    fn send(&self, _: Revision, binary: bool, body: &Bytes) -> bool {
        let output = if binary {
            Value::from(body.to_vec())
        } else {
            serde_json::from_slice(body).expect("outputs are JSON")
        };
        self.change(|state| {
            if output["tag"] == "assign"
                && let Some(key) = output["key"].as_str()
            {
                state.mirror.insert(key.to_owned(), output["value"].clone());
            }
            state.outputs.push_back(output);
        });
        true
    }

    fn acked(&self, number: InputNumber) {
        self.change(|state| state.acked = number);
    }

    fn consumed(&self, _: usize) {}

    fn closed(&self, _: CloseCode) {
        self.change(|state| state.closed = true);
    }

    fn reset(&self, code: ResetCode) {
        panic!("the session resets a tab: {code:?}");
    }
}
