//! Tests of apps: [`TestSession`] runs one session in virtual time, without a cluster.

mod wire;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use single_state_proto::frame::{CloseCode, Durability};
use single_state_proto::id::{Generation, Incarnation, WorkerIndex};
use single_state_proto::limits::MAX_MESSAGE;
use single_state_proto::placement::PlacementKey;
use single_state_store::{MemoryStore, Owner, SharedStore};
use tokio::runtime::Runtime;
use tokio::task::{AbortHandle, LocalSet};

use self::wire::{Wire, WireState};
use crate::Bytes;
use crate::clock::Clock;
use crate::host::{Host, OnUnreadable, Rules};
use crate::registry::Registry;
#[cfg(test)]
use crate::resident::Leave;
use crate::resident::Policy;
use crate::session::Session;

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
    worker: RefCell<Worker>,
    store: SharedStore,
    shared: Arc<dyn Any + Send + Sync>,
    durability: Durability,
    clock: Clock,
    /// The app, by its version.
    start: Cell<(u32, Start)>,
    tabs: Cell<u64>,
}

type Start = fn(Rc<Host>) -> Rc<Registry>;

/// What ends with a crash.
struct Worker {
    registry: Rc<Registry>,
    commits: AbortHandle,
}

/// One tab of a [`TestSession`].
pub struct TestTab {
    world: Rc<World>,
    wire: Rc<Wire>,
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
        Self::make(Arc::new(shared), Durability::Relaxed)
    }

    /// A new session with one tab, in another mode than `Relaxed`.
    pub fn with_durability(durability: Durability) -> Self {
        Self::make(Arc::new(()), durability)
    }

    fn make(shared: Arc<dyn Any + Send + Sync>, durability: Durability) -> Self {
        Self::with_store(shared, durability, Rc::new(MemoryStore::new()))
    }

    /// A session in a store that the test has prepared.
    pub(crate) fn with_store(
        shared: Arc<dyn Any + Send + Sync>,
        durability: Durability,
        store: SharedStore,
    ) -> Self {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().start_paused(true).build();
        let runtime = runtime.expect("a test needs a runtime");
        let tasks = LocalSet::new();
        let clock = tasks.block_on(&runtime, async { Clock::virtual_time() });
        let start: (u32, Start) = (S::VERSION, Worker::registry::<S>);
        let worker = tasks.block_on(&runtime, async {
            store.prepare().await.expect("memory is there");
            Worker::start(&store, &shared, durability, clock, start)
        });
        let (worker, start, tabs) = (RefCell::new(worker), Cell::new(start), Cell::new(0));
        let world = World { runtime, tasks, worker, store, shared, durability, clock, start, tabs };
        let world = Rc::new(world);
        let first = TestTab::connect(&world);
        Self { world, first, app: std::marker::PhantomData }
    }

    /// Ends the worker as a crash would, and starts one of another version of the app: what the old
    /// one has committed is read by [`Session::migrate`].
    pub fn upgrade<T: Session>(self) -> TestSession<T> {
        let Self { world, first, .. } = self;
        world.start.set((T::VERSION, Worker::registry::<T>));
        world.crash();
        TestSession { world, first, app: std::marker::PhantomData }
    }

    /// Ends the worker as a crash would, and starts another one: the session goes back to its last
    /// commit, its tabs attach again, and what they have sent since then is handled again.
    pub fn crash(&self) {
        self.world.crash();
    }

    /// Lets the worker hand the session over, as far as it can, and take it again.
    #[cfg(test)]
    pub(crate) fn recall(&self) {
        self.world.block_on(async {
            let registry = self.world.registry();
            for resident in registry.residents() {
                registry.passivate(&resident, Leave::Recall);
            }
        });
    }

    /// Connects one more tab.
    pub fn tab(&self) -> TestTab {
        TestTab::connect(&self.world)
    }

    /// Sends a message from the first tab, and returns when it is handled.
    pub fn send(&self, message: Value) {
        self.first.send(message);
    }

    /// Sends a message from the first tab, and does not wait until it is handled.
    #[cfg(test)]
    pub(crate) fn send_unwaited(&self, message: Value) {
        self.first.send_unwaited(message);
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

    fn registry(&self) -> Rc<Registry> {
        self.worker.borrow().registry.clone()
    }

    fn crash(self: &Rc<Self>) {
        self.block_on(async {
            let old = self.worker.replace(Worker::start(
                &self.store,
                &self.shared,
                self.durability,
                self.clock,
                self.start.get(),
            ));
            old.commits.abort();
            // Its sessions die where they are; their tabs come to the new worker.
            old.registry.crash();
            tokio::task::yield_now().await;
        });
    }
}

impl Drop for World {
    /// A tab and the session that it is attached to keep each other, and with them the runtime and
    /// its descriptors.
    fn drop(&mut self) {
        for resident in self.registry().residents() {
            resident.close_channels(CloseCode::SessionEnded);
        }
    }
}

impl Worker {
    fn registry<S: Session>(host: Rc<Host>) -> Rc<Registry> {
        Registry::new::<S>(host, PlacementKey::default())
    }

    fn start(
        store: &SharedStore,
        shared: &Arc<dyn Any + Send + Sync>,
        durability: Durability,
        clock: Clock,
        (app_version, start): (u32, Start),
    ) -> Self {
        let owner = Owner {
            index: WorkerIndex(0),
            incarnation: Incarnation(1),
            generation: Generation(1),
            app_version,
        };
        let rules = Rules {
            policy: Policy { durability, interval: Duration::from_secs(1) },
            on_unreadable: OnUnreadable::Quarantine,
            check_snapshots: true,
            ephemeral: true,
            max_sessions: 0,
            max_output_bytes: MAX_MESSAGE as usize,
            handler_grace: Duration::from_secs(2),
        };
        let mut host =
            Host::new(owner, store.clone(), shared.clone(), rules, clock, Default::default());
        // Virtual time must not overtake a computation.
        host.cores = None;
        let host = Rc::new(host);
        let commits = tokio::task::spawn_local(host.committer.clone().run()).abort_handle();
        Self { registry: start(host), commits }
    }
}

impl TestTab {
    fn connect(world: &Rc<World>) -> Self {
        let number = world.tabs.get() + 1;
        world.tabs.set(number);
        let wire = Wire::new(world, number);
        let tab = Self { world: world.clone(), wire: wire.clone() };
        world.block_on(async {
            wire.open();
            tab.wait_for("attach a tab", |state| state.attachment.is_some()).await;
        });
        tab
    }

    /// Sends a message, and returns when it is handled.
    pub fn send(&self, message: Value) {
        self.send_text(&message.to_string());
    }

    /// Sends a message, and does not wait until it is handled.
    #[cfg(test)]
    pub(crate) fn send_unwaited(&self, message: Value) {
        self.wire.state.borrow_mut().client.push(false, message.to_string().into());
        self.world.block_on(async { self.wire.forward() });
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
        assert!(self.is_open(), "this tab's connection is closed");
        let number = self.wire.state.borrow_mut().client.push(binary, body);
        self.world.block_on(async {
            self.wire.forward();
            let handled = |state: &WireState| state.applied >= number || state.closed;
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
