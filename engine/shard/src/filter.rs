//! The rules of a network, run on one unicast frame between us and an admitted member. It must never send a copy of a
//! frame: those that want copies are the control plane's, which then judges them itself.

use network::rules::{Direction, Frame, Verdict};
use network::{Policy, Standing};
use rand::Rng;
use rand::rngs::StdRng;

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Pass,
    Drop,
    /// The control plane decides.
    Control,
}

/// The rules between us and one member.
#[derive(Clone, Copy)]
pub(crate) enum Rules<'t> {
    /// Every frame that gets this far passes.
    AcceptAll,
    /// Our side and what the member may claim.
    Tables(&'t Policy, &'t Standing),
}

impl Rules<'_> {
    /// Judges a frame. One that is for the control plane is as good as never looked at.
    #[inline]
    pub(crate) fn judge(self, direction: Direction, frame: &Frame<'_>, chance: &mut StdRng) -> Fate {
        match self {
            Rules::AcceptAll => Fate::Pass,
            Rules::Tables(policy, member) => judge(policy, member, direction, frame, chance),
        }
    }

    /// Segments of one super-frame of ours may have different fates.
    pub(crate) fn tells_segments_apart(self) -> bool {
        matches!(self, Rules::Tables(policy, _) if policy.tells_segments_apart())
    }
}

fn judge(policy: &Policy, member: &Standing, direction: Direction, frame: &Frame<'_>, chance: &mut StdRng) -> Fate {
    // to judge it twice would be to roll the dice twice
    if policy.chance_copies(direction, member) {
        return Fate::Control;
    }
    let filtered = policy.filter(direction, member, frame, &mut || chance.next_u32());
    match filtered.verdict {
        _ if filtered.copies().next().is_some() => Fate::Control,
        Verdict::Drop => Fate::Drop,
        Verdict::Accept | Verdict::SuperAccept => Fate::Pass,
    }
}
