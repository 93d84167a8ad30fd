//! Links that fall silent, vanish, come back, flap and lose: how long nothing comes, and what is lost.

use bond::config::{LinkSettings, PolicySettings, Settings as Written};
use bond::tx::TxState;
use sim::Link;

use crate::lab::{Lab, ip};
use crate::rig::*;

#[test]
fn a_silent_cut_costs_less_than_150_ms_under_every_policy_one_way_or_both() {
    for policy in POLICIES {
        for one_way in [false, true] {
            let mut lab = bonded(2, policy);
            let link = in_use(&lab).expect("direct");
            let fail = |lab: &mut Lab| match one_way {
                false => cut(lab, link),
                true => lab.world.block_one_way(ip(A[link]), ip(B[link])),
            };
            let [got, _] = stream(&mut lab, 3000, false, once(1000, fail));
            println!("{policy} one way {one_way}: gap {} ms, lost {}", got.gap_ms(900), got.lost());
            let limit = if policy == "broadcast" { 2 } else { 120 };
            assert!(got.gap_ms(900) <= limit, "{policy}: {} ms {:#?}", got.gap_ms(900), why(&lab));
            assert_eq!((got.twice(), in_use(&lab)), (0, Some(1 - link)), "{policy}");
        }
    }
}

#[test]
fn an_address_that_is_lost_costs_nothing_and_no_frame_goes_through_a_root() {
    for policy in POLICIES {
        let mut lab = bonded(3, policy);
        let link = in_use(&lab).expect("direct");
        let relayed = lab.world.host(lab.root).node.counters().relayed;
        let [got, _] = stream(&mut lab, 2000, false, once(1000, |lab| unplug(lab, link)));
        assert!(got.gap_ms(900) <= 20, "{policy}: {} ms", got.gap_ms(900));
        // On its way when the socket was closed.
        assert!(got.lost() <= 1, "{policy}: {}", got.lost());
        assert_eq!(lab.world.host(lab.root).node.counters().relayed, relayed, "{policy}");
    }
}

#[test]
fn what_the_kernel_refuses_to_send_is_noticed_at_once() {
    let mut lab = bonded(4, "active-backup");
    let link = in_use(&lab).expect("direct");
    let id = socket(&lab, link);
    let [got, _] = stream(&mut lab, 1000, false, |lab, t| {
        if t == 500 {
            cut(lab, link);
            let remote = format!("{}:9993", B[link]).parse().unwrap();
            lab.world.with(lab.leaves[0], |node, now| node.handle_send_refused(now, id, remote));
        }
    });
    assert!(got.gap_ms(400) <= 2, "{} ms", got.gap_ms(400));
    assert_eq!(in_use(&lab), Some(1 - link));
}

#[test]
fn a_link_that_was_just_learned_is_left_as_soon_as_any_other() {
    let mut lab = bonded(5, "active-backup");
    unplug(&mut lab, 0);
    stream(&mut lab, 2000, false, |_, _| ());
    assert_eq!(in_use(&lab), Some(1));
    plug(&mut lab, 0);
    let back = lab.world.run_until(5000, |w| w.host(lab.leaves[0]).node.gauges().bond_paths == 2);
    assert!(back, "it is found again");
    lab.world.run_ms(1000);
    let [got, _] = stream(&mut lab, 1000, false, once(300, |lab| cut(lab, 1)));
    assert!(got.gap_ms(200) <= 150, "{} ms {:#?}", got.gap_ms(200), why(&lab));
}

#[test]
fn a_path_that_brings_junk_and_nothing_else_is_left_all_the_same() {
    let mut lab = bonded(6, "active-backup");
    let link = in_use(&lab).expect("direct");
    let (host, id) = (lab.leaves[0], socket(&lab, link));
    let [got, _] = stream(&mut lab, 2000, false, |lab, t| {
        if t == 500 {
            cut(lab, link);
        }
        if t > 500 && t % 10 == 0 {
            let remote = format!("{}:9993", B[link]).parse().unwrap();
            lab.world.with(host, |node, now| node.handle_datagram(now, id, remote, &mut [t as u8; 60]));
        }
    });
    assert!(got.gap_ms(400) <= 150, "{} ms", got.gap_ms(400));
}

#[test]
fn a_link_that_returns_carries_data_after_its_up_delay() {
    let links = |p: &mut PolicySettings| {
        p.up_delay = Some(2000);
        let mode = |mode: &str| LinkSettings { mode: Some(mode.into()), ..LinkSettings::default() };
        p.links = [("link-44.0.1.1".into(), mode("primary")), ("link-44.0.11.1".into(), mode("spare"))].into();
    };
    for unplugged in [false, true] {
        let mut lab = pair(7, &custom("active-backup", links), &Written::default());
        assert_eq!(in_use(&lab), Some(0));
        let mut used = Vec::new();
        stream(&mut lab, 7000, false, |lab, t| {
            match (t, unplugged) {
                (500, false) => cut(lab, 0),
                (500, true) => unplug(lab, 0),
                (1500, false) => heal(lab, 0),
                (1500, true) => plug(lab, 0),
                _ => {}
            }
            used.push(in_use(lab));
        });
        assert_eq!((used[1400], used[3400]), (Some(1), Some(1)), "not before two seconds");
        let back = used.iter().skip(1500).position(|link| *link == Some(0)).expect("it is back");
        assert!((2000..=2500).contains(&back), "unplugged {unplugged}: after {back} ms {:#?}", why(&lab));
    }
}

#[test]
fn a_link_that_flaps_gets_no_data_after_the_third_time_and_the_other_one_does_not_notice() {
    for unplugged in [false, true] {
        let links = |p: &mut PolicySettings| {
            let mode = |mode: &str| LinkSettings { mode: Some(mode.into()), ..LinkSettings::default() };
            p.links = [("link-44.0.1.1".into(), mode("primary")), ("link-44.0.11.1".into(), mode("spare"))].into();
        };
        let mut lab = pair(8, &custom("active-backup", links), &Written::default());
        let mut used = Vec::new();
        let [got, _] = stream(&mut lab, 30_000, false, |lab, t| {
            if t % 1000 == 0 && t < 30_000 {
                match ((t / 1000) % 2 == 0, unplugged) {
                    (true, false) => cut(lab, 0),
                    (true, true) => unplug(lab, 0),
                    (false, false) => heal(lab, 0),
                    (false, true) => plug(lab, 0),
                }
            }
            used.push(in_use(lab));
        });
        assert!(got.gap_ms(1) <= 150, "unplugged {unplugged}: {} ms {:#?}", got.gap_ms(1), why(&lab));
        let later = used.iter().skip(7000).filter(|link| **link != Some(1)).count();
        assert_eq!(later, 0, "unplugged {unplugged}: {:#?}", why(&lab));
    }
}

#[test]
fn with_all_direct_paths_dead_data_goes_through_the_root_and_comes_back() {
    for policy in POLICIES {
        let mut lab = bonded(9, policy);
        let [got, _] = stream(&mut lab, 8000, false, |lab, t| match t {
            1000 => (0..2).for_each(|link| cut(lab, link)),
            5000 => (0..2).for_each(|link| heal(lab, link)),
            _ => {}
        });
        println!("{policy}: relay after {} ms", got.gap_ms(900));
        assert!(got.gap_ms(900) <= 2500, "{policy}: {} ms {:#?}", got.gap_ms(900), why(&lab));
        assert!(in_use(&lab).is_some(), "{policy}: direct again {:#?}", why(&lab));
    }
}

#[test]
fn a_path_ten_times_as_slow_stays_in_use_or_is_left_without_a_gap() {
    for policy in ["active-backup", "balance-xor"] {
        let mut lab = bonded(10, policy);
        let link = in_use(&lab).expect("direct");
        let slow = |lab: &mut Lab| lab.world.set_link(ip(A[link]), ip(B[link]), Link::delay_ms(100));
        let [got, _] = stream(&mut lab, 3000, false, once(1000, slow));
        assert!(got.gap_ms(900) <= 150, "{policy}: {} ms", got.gap_ms(900));
        assert!(got.lost() <= 100, "{policy}: {}", got.lost());
    }
}

#[test]
fn half_the_packets_lost_on_a_path_does_not_stop_the_others() {
    let mut lab = bonded(11, "broadcast");
    let lossy = |lab: &mut Lab| {
        lab.world.set_link(ip(A[0]), ip(B[0]), Link { loss_ppm: 300_000, ..Link::delay_ms(10) });
    };
    let [got, _] = stream(&mut lab, 5000, false, once(100, lossy));
    assert_eq!((got.lost(), got.twice()), (0, 0), "each frame once");
}

#[test]
fn a_new_link_joins_within_seconds() {
    for policy in ["active-backup", "balance-aware"] {
        let mut lab = bonded(12, policy);
        unplug(&mut lab, 1);
        lab.world.run_ms(3000);
        assert_eq!(paths(&lab).len(), 1);
        let start = lab.world.now().ms();
        plug(&mut lab, 1);
        let leaf = lab.leaves[0];
        let found = lab.world.run_until(5000, |w| w.host(leaf).node.gauges().bond_paths == 2);
        assert!(found && lab.world.now().ms() - start < 2000, "after {} ms", lab.world.now().ms() - start);
        lab.world.run_ms(3000);
        assert!(paths(&lab).iter().all(|p| p.1 == TxState::Good), "{:?}", paths(&lab));
    }
}

#[test]
fn two_bonds_towards_each_other_both_fail_over() {
    let mut lab = pair(13, &standard("active-backup"), &standard("balance-xor"));
    let link = in_use(&lab).expect("direct");
    let got = stream(&mut lab, 3000, true, once(1000, |lab| cut(lab, link)));
    for got in got {
        assert!(got.gap_ms(900) <= 120, "{} ms", got.gap_ms(900));
        assert_eq!(got.twice(), 0);
    }
}
