//! When the tunnel is opened, probed past, drained and closed, decided from times alone; nothing is sent or received here.
// spec: paths, "TCP fallback"

use std::net::SocketAddrV4;

use super::DEFAULT_RELAY;
use crate::backoff::Backoff;

/// Without authenticated UDP from the Internet for so long the tunnel is opened, ms. // spec: paths, "TCP fallback"
pub const SILENCE_MS: u64 = 60_000;
/// UDP heard so lately works again, ms. // spec: paths, "TCP fallback"
const HEARD_MS: u64 = 30_000;
/// While the tunnel is used, roots are greeted by UDP so often. ours.
const PROBE_MS: u64 = 10_000;
/// What others still send through the relay is taken for so long after UDP came back: they notice a dead path within 19 s,
/// ms. ours.
const DRAIN_MS: u64 = 25_000;
/// How often the times are looked at, ms. ours.
const LOOK_MS: u64 = 1000;

/// What the operator says about the fallback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Open the tunnel when UDP is silent.
    pub allow: bool,
    /// No UDP at all, everything through the tunnel. Allows it too.
    pub force: bool,
    /// Where the relay is.
    pub relay: SocketAddrV4,
    /// Silence after which it is opened, ms.
    pub silence_ms: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { allow: false, force: false, relay: DEFAULT_RELAY, silence_ms: SILENCE_MS }
    }
}

/// How the connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Closed,
    Connecting,
    /// In use.
    Open {
        since_ms: u64,
        next_probe_ms: u64,
    },
    /// Nothing is sent any more, but what comes is taken.
    Draining {
        until_ms: u64,
    },
}

/// What is to be done about the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Connect,
    /// Greet roots by UDP: does it work again?
    Probe,
    /// UDP works: the node is to forget the tunnel.
    Drain,
    Close,
}

/// Decides from times alone.
#[derive(Debug)]
pub(super) struct Clockwork {
    pub(super) settings: Settings,
    pub(super) state: State,
    /// Silence counts from here at the earliest.
    start_ms: u64,
    backoff: Backoff,
    next_look_ms: u64,
}

impl Clockwork {
    pub(super) fn new(settings: Settings, now_ms: u64) -> Clockwork {
        let backoff = Backoff::default();
        Clockwork { settings, state: State::Closed, start_ms: now_ms, backoff, next_look_ms: now_ms }
    }

    /// Other settings; looked at at once. True if they are of another relay, so that a connection is to be closed.
    pub(super) fn set(&mut self, settings: Settings, now_ms: u64) -> bool {
        let moved = settings.relay != self.settings.relay;
        self.settings = settings;
        self.next_look_ms = now_ms;
        if moved {
            self.backoff = Backoff::default();
        }
        let leave = moved && self.state != State::Closed;
        if leave {
            self.state = State::Closed;
        }
        leave
    }

    fn wanted(&self) -> bool {
        self.settings.allow || self.settings.force
    }

    pub(super) fn next_due_ms(&self) -> Option<u64> {
        (self.wanted() || self.state != State::Closed).then_some(self.next_look_ms)
    }

    /// Looks at the time. `heard_ms`: when some link last heard authenticated UDP from the Internet.
    pub(super) fn look(&mut self, now_ms: u64, heard_ms: Option<u64>) -> Option<Step> {
        self.next_look_ms = now_ms + LOOK_MS;
        let silent_ms = now_ms.saturating_sub(heard_ms.unwrap_or(0).max(self.start_ms));
        match self.state {
            State::Closed => {
                let due = self.settings.force || silent_ms >= self.settings.silence_ms;
                if !self.wanted() || !due || !self.backoff.is_over(now_ms) {
                    return None;
                }
                self.state = State::Connecting;
                Some(Step::Connect)
            }
            _ if !self.wanted() => {
                self.state = State::Closed;
                Some(Step::Close)
            }
            State::Connecting => None,
            State::Open { since_ms, next_probe_ms } => {
                let heard = heard_ms.is_some_and(|at| at > since_ms && now_ms.saturating_sub(at) < HEARD_MS);
                if heard && !self.settings.force {
                    self.state = State::Draining { until_ms: now_ms + DRAIN_MS };
                    return Some(Step::Drain);
                }
                if now_ms < next_probe_ms || self.settings.force {
                    return None;
                }
                self.state = State::Open { since_ms, next_probe_ms: now_ms + PROBE_MS };
                Some(Step::Probe)
            }
            State::Draining { until_ms } => {
                if now_ms < until_ms {
                    return None;
                }
                self.state = State::Closed;
                Some(Step::Close)
            }
        }
    }

    pub(super) fn opened(&mut self, now_ms: u64) {
        self.backoff = Backoff::default();
        self.state = State::Open { since_ms: now_ms, next_probe_ms: now_ms + PROBE_MS };
    }

    pub(super) fn lost(&mut self, now_ms: u64) {
        self.backoff.failed(now_ms);
        self.state = State::Closed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clockwork(settings: Settings) -> Clockwork {
        Clockwork::new(settings, 1000)
    }

    const ALLOWED: Settings = Settings { allow: true, force: false, relay: DEFAULT_RELAY, silence_ms: SILENCE_MS };

    #[test]
    fn off_by_default_nothing_is_ever_due() {
        let mut off = clockwork(Settings::default());
        assert_eq!((off.next_due_ms(), off.look(10_000_000, None)), (None, None));
    }

    #[test]
    fn a_minute_without_authenticated_udp_opens_the_tunnel_however_much_is_sent() {
        let mut c = clockwork(ALLOWED);
        for now_ms in (1000..61_000).step_by(100) {
            assert_eq!(c.look(now_ms, None), None);
        }
        assert_eq!(c.look(61_000, None), Some(Step::Connect));
        let mut heard = clockwork(ALLOWED);
        assert_eq!(heard.look(61_000, Some(30_000)), None);
        assert_eq!(heard.look(90_000, Some(30_000)), Some(Step::Connect));
    }

    #[test]
    fn udp_that_is_heard_again_drains_and_then_closes_it_and_until_then_roots_are_greeted() {
        let mut c = clockwork(ALLOWED);
        c.look(61_000, None);
        c.opened(61_100);
        assert_eq!(c.look(62_000, Some(61_050)), None, "heard before it was open");
        assert_eq!(c.look(71_100, None), Some(Step::Probe));
        assert_eq!(c.look(72_000, None), None);
        assert_eq!(c.look(73_000, Some(72_900)), Some(Step::Drain));
        assert_eq!(c.look(73_000 + DRAIN_MS - 1, Some(72_900)), None);
        assert_eq!(c.look(73_000 + DRAIN_MS, Some(72_900)), Some(Step::Close));
        assert_eq!(c.look(132_000, Some(72_900)), None);
        assert_eq!(c.look(132_900, Some(72_900)), Some(Step::Connect), "silent again");
    }

    #[test]
    fn forced_it_is_open_from_the_start_and_stays_until_the_operator_says_otherwise() {
        let mut c = clockwork(Settings { force: true, ..Settings::default() });
        assert_eq!(c.look(1000, None), Some(Step::Connect));
        c.opened(1100);
        assert_eq!(c.look(50_000, Some(49_000)), None);
        c.settings = Settings::default();
        assert_eq!(c.look(51_000, None), Some(Step::Close));
    }

    #[test]
    fn a_relay_that_does_not_answer_is_tried_after_growing_pauses() {
        let mut c = clockwork(Settings { force: true, ..Settings::default() });
        let mut tries = 0;
        for now_ms in (1000..121_000).step_by(500) {
            if c.look(now_ms, None) == Some(Step::Connect) {
                tries += 1;
                c.lost(now_ms);
            }
        }
        assert_eq!(tries, 9, "0, 0.5, 1, 2, 4, 8, 16, 30 and 30 s apart");
    }
}
