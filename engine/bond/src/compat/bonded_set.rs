//! Which paths of a balance policy carry traffic.
// spec: bonding, "The bonded set"

use crate::config::{Family, IpPreference, LinkMode};

/// One nominated path.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// Which link; the order of these numbers is the order of the set.
    pub link: usize,
    /// Of the link.
    pub mode: LinkMode,
    /// Of the link.
    pub ip: IpPreference,
    /// Of the path.
    pub family: Family,
    /// Whether no other path was ever on its link.
    pub only: bool,
    /// Heard of lately.
    pub alive: bool,
    /// May carry traffic.
    pub eligible: bool,
    /// Carries traffic so far.
    pub bonded: bool,
}

impl Member {
    /// Whether its family comes first on its link.
    pub fn preferred(&self) -> bool {
        self.only || self.ip.prefers(self.family)
    }
}

/// Whether the set is to be rebuilt although nothing happened to one path.
pub fn is_hollow(members: &[Option<Member>]) -> bool {
    !is_usable(members)
}

/// The set, in order: indices of `members`, appended to `out`. A spare that works counts as if a primary did, so a rebuild
/// while only spares work leaves nothing for one tick (defect B15, recorded).
pub fn rebuild(members: &[Option<Member>], out: &mut Vec<usize>) {
    let usable = is_usable(members);
    let links = members.iter().flatten().map(|m| m.link + 1).max().unwrap_or(0);
    for link in 0..links {
        let on_link = |i: &usize| members[*i].is_some_and(|m| m.link == link && m.eligible && m.ip.permits(m.family));
        let candidates = || (0..members.len()).filter(on_link);
        let is = |i: &usize, mode| members[*i].is_some_and(|m| m.mode == mode);
        if !usable {
            out.extend(candidates().filter(|i| is(i, LinkMode::Spare)));
        }
        let rest = || candidates().filter(|i| is(i, LinkMode::Primary));
        let preferred = |i: &usize| members[*i].is_some_and(|m| m.preferred());
        let ranks = rest().any(|i| members[i].is_some_and(|m| m.ip.ranks()));
        let before = out.len();
        if ranks {
            out.extend(rest().filter(preferred));
        }
        if out.len() == before {
            out.extend(rest());
        }
    }
}

/// Whether some path carries traffic and works. One that is not eligible has lost its mark by now.
fn is_usable(members: &[Option<Member>]) -> bool {
    members.iter().flatten().any(|m| m.bonded && m.alive && m.eligible)
}
