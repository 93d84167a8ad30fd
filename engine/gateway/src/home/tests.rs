use std::os::unix::fs::PermissionsExt;

use wire::identity::SecretIdentity;
use wire::world::{DEFAULT_PLANET, Root, World, WorldKind};

use super::*;

fn made() -> (tempfile::TempDir, Home, Address) {
    let dir = tempfile::tempdir().expect("tempdir");
    let home = Home::new(dir.path().join("home"));
    let address = home.load().expect("a new home").identity.public().address();
    (dir, home, address)
}

/// Damages a file, loads, and checks that the error names the file and that no file changed.
fn refused(home: &Home, file: &Path, bytes: &[u8], reason: &str) {
    let before = fs::read(file).ok();
    fs::create_dir_all(file.parent().expect("folder")).expect("folder");
    fs::write(file, bytes).expect("damage");
    let all = snapshot(home.root());
    let text = home.load().expect_err("must be refused").to_string();
    assert!(text.contains(&file.display().to_string()) && text.contains(reason), "{text}");
    assert_eq!(snapshot(home.root()), all, "something was written after {text}");
    match before {
        Some(before) => fs::write(file, before).expect("repair"),
        None => fs::remove_file(file).expect("repair"),
    }
    home.load().expect("repaired");
}

fn snapshot(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("folder") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            files.extend(snapshot(&path));
        } else {
            files.push((path.clone(), fs::read(&path).expect("file")));
        }
    }
    files.sort();
    files
}

#[test]
fn a_new_home_gets_identity_token_and_planet_under_their_names_and_modes() {
    let (_dir, home, address) = made();
    let mode = |file: PathBuf| fs::metadata(file).expect("file").permissions().mode() & 0o777;
    assert_eq!((mode(home.identity_secret()), mode(home.identity_public())), (SECRET, PUBLIC));
    assert_eq!((mode(home.token()), mode(home.planet())), (SECRET, PUBLIC));
    let secret = fs::read(home.identity_secret()).expect("secret");
    assert!(secret.len() == 270 && secret.starts_with(address.to_string().as_bytes()));
    assert_eq!(fs::read(home.planet()).expect("planet"), DEFAULT_PLANET);
    assert_eq!(fs::read(home.token()).expect("token").len(), TOKEN_LEN, "no newline: some tools do not trim");
    let again = home.load().expect("second start");
    assert_eq!(again.identity.public().address(), address);
}

#[test]
fn a_trailing_newline_and_a_missing_public_identity_are_mended() {
    let (_dir, home, address) = made();
    let mut secret = fs::read(home.identity_secret()).expect("secret");
    secret.push(b'\n');
    fs::write(home.identity_secret(), secret).expect("write");
    fs::remove_file(home.identity_public()).expect("remove");
    fs::write(home.token(), "some-token\n").expect("write");
    let loaded = home.load().expect("load");
    assert_eq!((loaded.identity.public().address(), loaded.token.as_str()), (address, "some-token"));
    assert_eq!(fs::read(home.identity_public()).expect("public").len(), 141);
}

#[test]
fn a_damaged_identity_is_refused_and_nothing_is_overwritten() {
    let (_dir, home, _) = made();
    refused(&home, &home.identity_secret(), b"", "not a secret identity");
    refused(&home, &home.identity_secret(), b"0123456789:0:xyz", "not a secret identity");
    refused(&home, &home.identity_public(), b"garbage", "not a public identity");
    let (_other, other, theirs) = made();
    let public = fs::read(other.identity_public()).expect("public");
    refused(&home, &home.identity_public(), &public, &format!("is of {theirs}"));
    fs::remove_file(home.identity_secret()).expect("remove");
    let text = home.load().expect_err("half an identity").to_string();
    assert!(text.contains("identity.secret: missing"), "{text}");
}

fn flipped() -> Vec<u8> {
    let mut flipped = DEFAULT_PLANET.to_vec();
    flipped[300] ^= 1;
    flipped
}

#[test]
fn of_the_cached_peers_the_newest_are_read_and_the_old_ones_are_named_for_removal() {
    let (_dir, home, _) = made();
    let now = SystemTime::now();
    let written = |n: u64, age: Duration| {
        let file = home.peer(Address::from_u64(n));
        home.write(&file, PUBLIC, &n.to_be_bytes()).expect("write");
        File::open(&file).and_then(|open| open.set_modified(now - age)).expect("set");
        file
    };
    let day = Duration::from_hours(24);
    let old = written(1, 31 * day);
    written(2, 29 * day);
    written(3, day);
    let read: Vec<u64> = home.load().expect("load").peers.iter().map(|(address, _)| address.to_u64()).collect();
    assert_eq!(read, [3, 2]);
    assert_eq!(home.stale_peers(now).expect("list"), [old]);
    assert_eq!(home.stale_peers(now + 2 * day).expect("list").len(), 2);
}

#[test]
fn a_damaged_planet_or_moon_is_refused_and_nothing_is_overwritten() {
    let (_dir, home, _) = made();
    refused(&home, &home.planet(), b"", "not a planet or moon");
    refused(&home, &home.planet(), &DEFAULT_PLANET[..400], "not a planet or moon");
    let key = hex::encode(World::parse(DEFAULT_PLANET).expect("planet").update_key);
    fs::write(signer_file(&home.planet()), key).expect("write");
    refused(&home, &home.planet(), &flipped(), "signature does not fit");
    refused(&home, &home.moon(7), DEFAULT_PLANET, "mixed up");
}

#[test]
fn seeds_of_moons_to_come_are_read_and_a_damaged_one_is_refused() {
    let (_dir, home, address) = made();
    refused(&home, &home.moon_seed(7), b"nobody", "not an address");
    fs::write(home.moon_seed(7), format!("{address}\n")).expect("write");
    assert_eq!(home.load().expect("load").seeds, [(7, address)]);
}

#[test]
fn a_moon_that_is_there_is_not_waited_for_any_more() {
    let (_dir, home, address) = made();
    let secret = SecretIdentity::generate(&mut rand::rng());
    let key = *secret.public().public_key();
    let moon = World::make(WorldKind::Moon, 7, 1, key, Vec::new(), &secret);
    fs::create_dir_all(home.root().join("moons.d")).expect("folder");
    fs::write(home.moon_seed(7), address.to_string()).expect("write");
    fs::write(home.moon(7), moon.to_bytes()).expect("write");
    let loaded = home.load().expect("load");
    assert_eq!((loaded.moons.len(), loaded.seeds.len()), (1, 0));
    assert!(!home.moon_seed(7).exists() && home.moon(7).exists());
}

#[test]
fn a_planet_that_changed_its_key_is_taken_with_the_key_noted_beside_it() {
    let (_dir, home, _) = made();
    let signer = SecretIdentity::generate(&mut rand::rng());
    let next = home.load().expect("load").identity;
    let root = Root { identity: next.public().clone(), endpoints: Vec::new() };
    let world = World::make(WorldKind::Planet, 9, 1, *next.public().public_key(), vec![root], &signer);
    fs::write(home.planet(), world.to_bytes()).expect("write");
    assert_eq!(home.load().expect("as ZeroTierOne leaves it: taken with a warning").planet, world);
    fs::write(signer_file(&home.planet()), hex::encode(world.update_key)).expect("write");
    assert!(home.load().is_err(), "a noted key must fit");
    fs::write(signer_file(&home.planet()), hex::encode(signer.public().public_key())).expect("write");
    assert_eq!(home.load().expect("load").planet, world);
}

#[test]
fn networks_are_joined_by_their_files_and_damaged_ones_are_refused() {
    let (_dir, home, _) = made();
    let id = NetworkId(0x6af3_745e_9700_0001);
    refused(&home, &home.network(id), b"\x01\x02\x03 no dictionary", "not a network configuration");
    fs::write(home.network(id), "").expect("an empty file joins");
    refused(&home, &home.network_local(id), b"allowManaged=nonsense", "nonsense");
    fs::write(home.root().join("networks.d/notes.txt"), "kept").expect("write");
    fs::write(home.network_local(id), "allowGlobal=1\n").expect("write");
    let loaded = home.load().expect("load");
    let [only] = loaded.networks.as_slice() else { panic!("{:?}", loaded.networks) };
    assert!(only.id == id && only.cached.is_none() && only.conf.allow_global);
}

#[test]
fn a_home_serves_one_daemon_at_a_time_and_tells_clients_where_it_is() {
    let (_dir, home, _) = made();
    let text = home.daemon().expect_err("never ran").to_string();
    assert!(text.contains("hawser up --home"), "{text}");
    let lock = home.lock().expect("first");
    assert!(matches!(home.lock(), Err(HomeError::Locked { .. })));
    drop(lock);
    let _again = home.lock().expect("free again");
    home.write(&home.port(), PUBLIC, b"9994").expect("write");
    assert_eq!(home.daemon().expect("port and token").0, 9994);
}
