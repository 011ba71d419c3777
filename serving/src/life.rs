//! The life of a connection: what is waited for at present, and until when. No part of it is without an end that its client
//! can't put off.

use crate::bounds::Bounds;
use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll, Waker},
};
use tokio::time::Instant;

/// What may be read behind a request whose answer is not there yet: requests sent in advance, which nobody honest does.
const AHEAD_BYTES: usize = 16 << 10;

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Handshake,
    /// A request's head, of which something may have come.
    Head,
    /// A handler, and the body of the request.
    Answer,
    /// That the client takes the answer.
    Taking,
    /// The next request.
    Idle,
}

/// Why a connection is ended from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Its time is over.
    Late(Phase),
    /// Its place is needed.
    Displaced,
    /// The head of the request is too large.
    TooLarge,
    /// It was answered before it was heard to the end: nothing more is read of it.
    Answered,
}

/// One connection's.
#[derive(Debug)]
pub(crate) struct Life {
    bounds: Rc<Bounds>,
    phase: Cell<Phase>,
    since: Cell<Instant>,
    deadline: Cell<Instant>,
    /// After this the next answer is the last one.
    end: Instant,
    /// Whether some of the request's body has not been read by its handler.
    unread_body: Cell<bool>,
    /// Whether the answer at hand is the last one.
    is_last: Cell<bool>,
    /// Whether the whole answer has been handed to the connection.
    is_encoded: Cell<bool>,
    /// Bytes that came since the last request began.
    ahead: Cell<usize>,
    /// Whether the head was given a chance to be read before it is called too large.
    is_full: Cell<bool>,
    /// Whether what was written waits for the client.
    is_blocked: Cell<bool>,
    /// Whether reading waits for us.
    is_withheld: Cell<bool>,
    is_gone: Cell<bool>,
    /// Whether what the protocol layer says without a request is kept back: it is said otherwise.
    hides_refusals: Cell<bool>,
    /// Whether something was kept back.
    has_hidden: Cell<bool>,
    cut: Cell<Option<Cut>>,
    task: RefCell<Option<Waker>>,
    waiter: RefCell<Option<Waker>>,
}

/// The connection that a request came on, as a handler sees it: `request.conn_data::<Connection>()`.
#[derive(Clone, Debug)]
pub struct Connection(pub(crate) Rc<Life>);

impl Connection {
    /// Waits until the client has gone away, or has said that it sends nothing more. One waits at a time.
    pub async fn ended(&self) {
        poll_fn(|context| self.0.poll_gone(context)).await;
    }
}

impl Life {
    pub(crate) fn new(bounds: Rc<Bounds>, phase: Phase) -> Self {
        let now = Instant::now();
        Self {
            phase: Cell::new(phase),
            since: Cell::new(now),
            deadline: Cell::new(now + bounds.head),
            end: now + bounds.life,
            bounds,
            unread_body: Cell::new(false),
            is_last: Cell::new(false),
            is_encoded: Cell::new(false),
            ahead: Cell::new(0),
            is_full: Cell::new(false),
            is_blocked: Cell::new(false),
            is_withheld: Cell::new(false),
            is_gone: Cell::new(false),
            hides_refusals: Cell::new(false),
            has_hidden: Cell::new(false),
            cut: Cell::new(None),
            task: RefCell::default(),
            waiter: RefCell::default(),
        }
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.deadline.get()
    }

    #[cfg(test)]
    fn phase(&self) -> Phase {
        self.phase.get()
    }

    pub(crate) fn cut(&self) -> Option<Cut> {
        self.cut.get()
    }

    pub(crate) fn has_unread_body(&self) -> bool {
        self.unread_body.get()
    }

    /// The handshake is done. Clients make connections in reserve: one without a request is as one between two of them.
    pub(crate) fn shook_hands(&self) {
        self.wait_for_request();
    }

    fn wait_for_request(&self) {
        self.enter(Phase::Idle, self.bounds.idle);
        self.deadline.set(self.deadline.get().min(self.end));
    }

    /// From now on what the protocol layer says of a head that it can't read is not sent.
    pub(crate) fn hide_refusals(&self) {
        self.hides_refusals.set(true);
    }

    /// Whether what is written now answers no request, and is not sent.
    pub(crate) fn hides(&self) -> bool {
        let hides = self.hides_refusals.get() && matches!(self.phase.get(), Phase::Head | Phase::Idle);
        if hides {
            self.has_hidden.set(true);
        }
        hides
    }

    /// The protocol layer has ended: what is written from now on is sent. Whether something of it was not.
    pub(crate) fn has_hidden_refusal(&self) -> bool {
        self.hides_refusals.set(false);
        self.has_hidden.get()
    }

    /// Whether nothing has come of the request that is waited for.
    pub(crate) fn is_silent(&self) -> bool {
        self.ahead.get() == 0
    }

    /// Its time is over, if it is.
    pub(crate) fn check_time(&self, now: Instant) {
        if now >= self.deadline.get() {
            self.end_with(Cut::Late(self.phase.get()));
        }
    }

    /// Since when it has been waited for; `None` where the client is not the one who keeps us waiting.
    pub(crate) fn waiting_since(&self) -> Option<Instant> {
        let waits = matches!(self.phase.get(), Phase::Handshake | Phase::Head | Phase::Idle);
        (waits && self.cut.get().is_none()).then(|| self.since.get())
    }

    /// Ends it for one that has something to say.
    pub(crate) fn displace(&self) {
        self.end_with(Cut::Displaced);
        self.wake_task();
    }

    /// The task that is to be woken when something is decided elsewhere.
    pub(crate) fn note_task(&self, context: &Context<'_>) {
        note(&self.task, context);
    }

    /// Whether something may be read now. Where not, the task is woken when it may.
    pub(crate) fn may_read(&self, context: &Context<'_>) -> bool {
        if self.is_blocked.get() {
            // What a client sends counts for nothing while it does not take its answer.
            self.is_withheld.set(true);
            return false;
        }
        let is_over = |most: usize| self.ahead.get() >= most;
        match self.phase.get() {
            Phase::Head if is_over(self.bounds.head_bytes) => {
                if self.is_full.replace(true) {
                    self.end_with(Cut::TooLarge);
                } else {
                    // What has come is looked at first: it may be a head, and the begin of a body.
                    context.waker().wake_by_ref();
                }
                false
            }
            Phase::Answer if !self.unread_body.get() && is_over(AHEAD_BYTES) => {
                self.is_last.set(true);
                self.is_withheld.set(true);
                self.client_gone();
                false
            }
            _ => true,
        }
    }

    /// So many bytes came.
    pub(crate) fn bytes_came(&self, count: usize) {
        self.ahead.set(self.ahead.get().saturating_add(count));
        if self.phase.get() == Phase::Idle {
            self.enter(Phase::Head, self.bounds.head);
        }
    }

    /// The client sends nothing more.
    pub(crate) fn client_gone(&self) {
        if !self.is_gone.replace(true)
            && let Some(waiter) = self.waiter.take()
        {
            waiter.wake();
        }
    }

    fn poll_gone(&self, context: &Context<'_>) -> Poll<()> {
        if self.is_gone.get() {
            return Poll::Ready(());
        }
        note(&self.waiter, context);
        Poll::Pending
    }

    /// A handler begins.
    pub(crate) fn request_began(&self, has_body: bool) {
        self.enter(Phase::Answer, self.bounds.answer);
        self.ahead.set(0);
        self.is_full.set(false);
        self.is_encoded.set(false);
        self.unread_body.set(has_body);
    }

    /// The handler has read all of the body.
    pub(crate) fn body_ended(&self) {
        self.unread_body.set(false);
        self.ahead.set(0);
    }

    /// The handler has an answer of so many bytes. True where it is the last one on this connection.
    pub(crate) fn answered(&self, bytes: u64) -> bool {
        self.enter(Phase::Taking, Bounds::taking(bytes));
        if self.unread_body.get() || Instant::now() >= self.end {
            self.is_last.set(true);
        }
        self.is_last.get()
    }

    /// The whole answer has been handed to the connection.
    pub(crate) fn encoded(&self) {
        self.is_encoded.set(true);
    }

    /// The client does not take what is written.
    pub(crate) fn write_blocked(&self) {
        self.is_blocked.set(true);
    }

    /// All that was handed over is written.
    pub(crate) fn flushed(&self) {
        self.is_blocked.set(false);
        if self.phase.get() == Phase::Taking && self.is_encoded.get() {
            if self.is_last.get() {
                self.end_with(Cut::Answered);
            } else if self.ahead.get() > 0 {
                self.enter(Phase::Head, self.bounds.head);
            } else {
                self.wait_for_request();
            }
        }
        if self.is_withheld.replace(false) {
            self.wake_task();
        }
    }

    fn enter(&self, phase: Phase, at_most: std::time::Duration) {
        let now = Instant::now();
        self.phase.set(phase);
        self.since.set(now);
        self.deadline.set(now + at_most);
    }

    fn end_with(&self, cut: Cut) {
        if self.cut.get().is_none() {
            self.cut.set(Some(cut));
        }
    }

    fn wake_task(&self) {
        if let Some(task) = &*self.task.borrow() {
            task.wake_by_ref();
        }
    }
}

fn note(place: &RefCell<Option<Waker>>, context: &Context<'_>) {
    let mut noted = place.borrow_mut();
    if noted.as_ref().is_none_or(|waker| !waker.will_wake(context.waker())) {
        *noted = Some(context.waker().clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn new_life(most: Duration) -> Life {
        Life::new(Rc::new(Bounds { life: most, ..Bounds::usual() }), Phase::Head)
    }

    fn life() -> Life {
        new_life(Duration::from_secs(3_600))
    }

    fn context() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    fn answer(life: &Life, has_body: bool) {
        life.bytes_came(100);
        life.request_began(has_body);
        life.answered(10);
        life.encoded();
        life.flushed();
    }

    /// The protocol layer answers a head that is none by itself, and without a body.
    #[test]
    fn what_answers_no_request_is_kept_back_where_it_is_said_otherwise() {
        let life = life();
        assert!(!life.hides(), "nobody says it otherwise");
        life.hide_refusals();
        life.request_began(false);
        assert!(!life.hides(), "an answer");
        life.answered(10);
        assert!(!life.hides());
        life.encoded();
        life.flushed();
        assert!(!life.has_hidden.get());
        life.bytes_came(5);
        assert!(life.hides());
        assert!(life.has_hidden_refusal() && !life.hides(), "what comes now is ours");
    }

    /// As the second one that a client opens while its first one is not free yet, and never needs.
    #[test]
    fn a_connection_in_reserve_is_no_slow_one() {
        let life = Life::new(Rc::new(Bounds::usual()), Phase::Handshake);
        life.shook_hands();
        assert_eq!(life.phase(), Phase::Idle);
        assert!(life.waiting_since().is_some(), "it goes first where a place is needed");
        let deadline = life.deadline();
        assert!(deadline > Instant::now() + Duration::from_secs(30));
        life.check_time(deadline);
        assert_eq!(life.cut(), Some(Cut::Late(Phase::Idle)));
        // What has begun has the time of a request.
        let life = Life::new(Rc::new(Bounds::usual()), Phase::Handshake);
        life.shook_hands();
        life.bytes_came(1);
        assert_eq!(life.phase(), Phase::Head);
        assert!(life.deadline() <= Instant::now() + Duration::from_secs(5));
        // Without a handshake it is not waited for as long, and is silent all the same.
        let life = new_life(Duration::from_secs(3_600));
        assert!(life.is_silent() && life.deadline() <= Instant::now() + Duration::from_secs(5));
    }

    #[test]
    fn a_drip_does_not_put_off_the_end_of_a_head() {
        let life = life();
        answer(&life, false);
        assert_eq!(life.phase(), Phase::Idle);
        life.bytes_came(1);
        let deadline = life.deadline();
        assert!(deadline <= Instant::now() + Duration::from_secs(5));
        for _ in 0..4 {
            life.bytes_came(1);
            assert_eq!((life.phase(), life.deadline()), (Phase::Head, deadline));
        }
        life.check_time(Instant::now());
        assert_eq!(life.cut(), None);
        life.check_time(deadline);
        assert_eq!(life.cut(), Some(Cut::Late(Phase::Head)));
    }

    #[test]
    fn what_came_with_the_request_before_is_a_head_that_has_begun() {
        let life = life();
        life.request_began(false);
        life.bytes_came(20);
        life.answered(0);
        life.encoded();
        life.flushed();
        assert_eq!(life.phase(), Phase::Head);
        assert!(life.deadline() <= Instant::now() + Duration::from_secs(5));
    }

    #[test]
    fn an_answer_before_the_end_of_the_body_is_the_last_one() {
        let life = life();
        life.request_began(true);
        assert!(life.answered(10));
        life.flushed();
        assert_eq!(life.cut(), None, "not before all of it is written");
        life.encoded();
        life.flushed();
        assert_eq!(life.cut(), Some(Cut::Answered));
        let life = new_life(Duration::from_secs(3_600));
        life.request_began(true);
        life.body_ended();
        assert!(!life.answered(10));
    }

    #[test]
    fn after_its_life_a_connection_ends_with_its_next_answer() {
        let life = new_life(Duration::from_secs(10));
        answer(&life, false);
        assert_eq!((life.phase(), life.cut()), (Phase::Idle, None));
        assert!(life.deadline() <= Instant::now() + Duration::from_secs(10), "idle no longer than that");
        let life = new_life(Duration::ZERO);
        life.request_began(false);
        assert!(life.answered(0));
    }

    #[test]
    fn a_head_has_a_size_and_is_looked_at_before_it_is_too_large() {
        let life = life();
        life.bytes_came(40 << 10);
        assert!(!life.may_read(&context()) && life.cut().is_none());
        life.request_began(true);
        assert!(life.may_read(&context()), "it was a head, and a part of the body");
        let life = new_life(Duration::from_secs(3_600));
        life.bytes_came(40 << 10);
        assert!(!life.may_read(&context()) && !life.may_read(&context()));
        assert_eq!(life.cut(), Some(Cut::TooLarge));
    }

    #[test]
    fn who_sends_ahead_without_end_is_not_read_on_and_counts_as_gone() {
        let life = life();
        life.request_began(false);
        assert!(life.may_read(&context()) && life.poll_gone(&context()).is_pending());
        life.bytes_came(AHEAD_BYTES);
        assert!(!life.may_read(&context()));
        assert!(life.poll_gone(&context()).is_ready());
        assert!(life.answered(0), "its answer is the last one");
    }

    #[test]
    fn an_answer_is_taken_and_a_connection_used_in_time() {
        let slow = life();
        slow.request_began(false);
        slow.answered(1 << 20);
        slow.encoded();
        slow.write_blocked();
        assert!(slow.deadline() <= Instant::now() + Duration::from_secs(10 + 32));
        slow.check_time(slow.deadline());
        assert_eq!(slow.cut(), Some(Cut::Late(Phase::Taking)));
        let idle = life();
        answer(&idle, false);
        assert!(idle.deadline() <= Instant::now() + Duration::from_secs(75));
        idle.check_time(idle.deadline());
        assert_eq!(idle.cut(), Some(Cut::Late(Phase::Idle)));
    }

    #[test]
    fn nothing_is_read_while_an_answer_is_not_taken() {
        let life = life();
        life.request_began(false);
        life.answered(1 << 20);
        life.encoded();
        life.write_blocked();
        assert!(!life.may_read(&context()));
        assert_eq!(life.waiting_since(), None, "it is at work, and not displaced");
        life.flushed();
        assert!(life.may_read(&context()));
        assert_eq!(life.phase(), Phase::Idle);
    }
}
