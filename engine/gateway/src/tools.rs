//! The commands that need no daemon: identities, planets and moons as files. Knows files and `wire`, nothing of a running node.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use wire::endpoint::Prefix;
use wire::identity::{Identity, SecretIdentity};
use wire::world::{Root, WORLD_MAX_ENDPOINTS, WORLD_MAX_ROOTS, World, WorldKind};
use zeroize::Zeroizing;

use crate::cli::{CliError, IdentityCommand, MoonCommand, PlanetCommand};
use crate::home::{Home, PUBLIC, SECRET};
use crate::local_conf::parse_endpoint;
use crate::{show, store};

/// World ID of the public planet, which no private one may have.
const PUBLIC_PLANET_ID: u64 = 149_604_618;

fn fail<T>(text: String) -> Result<T, CliError> {
    Err(CliError::Failed(text))
}

fn in_file<E: std::fmt::Display>(file: &Path) -> impl Fn(E) -> CliError {
    move |e| CliError::Failed(format!("{}: {e}", file.display()))
}

/// `hawser identity ...`; what to print.
pub fn identity(command: &IdentityCommand, home: &Home, as_json: bool) -> Result<String, CliError> {
    match command {
        IdentityCommand::New { out, force } => new_identity(out.as_deref(), *force, as_json),
        IdentityCommand::Show { identity } => {
            let identity = read_identity(identity.as_deref(), home)?;
            let text = identity.to_string();
            Ok(if as_json { show::pretty(&identity_json(&identity)) } else { text })
        }
        IdentityCommand::Check { identity } => {
            let identity = read_identity(identity.as_deref(), home)?;
            let (address, valid) = (identity.address(), identity.validate());
            if !valid {
                return fail(format!("identity {address}: its proof of work is wrong; nobody will accept it"));
            }
            let object = json!({"address": address.to_string(), "valid": true});
            Ok(if as_json { show::pretty(&object) } else { format!("{address}: a valid identity") })
        }
    }
}

fn identity_json(identity: &Identity) -> Value {
    json!({"address": identity.address().to_string(), "publicIdentity": identity.to_string()})
}

/// Nothing is replaced by accident.
fn not_there_yet<'a>(files: impl IntoIterator<Item = &'a Path>, force: bool) -> Result<(), CliError> {
    match files.into_iter().find(|file| file.exists() && !force) {
        Some(taken) => fail(format!("{}: there already; choose another name or say --force", taken.display())),
        None => Ok(()),
    }
}

fn new_identity(out: Option<&Path>, force: bool, as_json: bool) -> Result<String, CliError> {
    let public_file = out.map(|file| file.with_extension("public"));
    not_there_yet(out.into_iter().chain(public_file.as_deref()), force)?;
    let secret = SecretIdentity::generate(&mut rand::rng());
    let mut object = identity_json(secret.public());
    let (Some(file), Some(public_file)) = (out, public_file) else {
        let text = secret.to_text();
        object["secretIdentity"] = json!(text.as_str());
        return Ok(if as_json { show::pretty(&object) } else { text.to_string() });
    };
    store::replace(file, SECRET, secret.to_text().as_bytes()).map_err(in_file(file))?;
    store::replace(&public_file, PUBLIC, secret.public().to_string().as_bytes()).map_err(in_file(&public_file))?;
    object["secretFile"] = json!(file);
    object["publicFile"] = json!(public_file);
    let text =
        format!("{}: secret in {}, public in {}", secret.public().address(), file.display(), public_file.display());
    Ok(if as_json { show::pretty(&object) } else { text })
}

/// Public part of an identity given as a file, as text, or not at all (then the home's).
fn read_identity(given: Option<&str>, home: &Home) -> Result<Identity, CliError> {
    let (text, what) = match given {
        Some(text) if text.find(':') == Some(10) && text.len() > 32 => {
            (Zeroizing::new(text.to_owned()), "this text".into())
        }
        _ => {
            let file = given.map_or_else(|| home.identity_public(), PathBuf::from);
            let text = fs::read_to_string(&file).map_err(in_file(&file))?;
            (Zeroizing::new(text), file.display().to_string())
        }
    };
    let text = text.trim();
    match text.parse::<Identity>() {
        Ok(identity) => Ok(identity),
        Err(e) => match text.parse::<SecretIdentity>() {
            Ok(secret) => Ok(secret.public().clone()),
            Err(_) => fail(format!("{what}: not an identity ({e})")),
        },
    }
}

/// `hawser planet ...`; what to print.
pub fn planet(command: &PlanetCommand, home: &Home, as_json: bool) -> Result<String, CliError> {
    match command {
        PlanetCommand::Make { roots, out, key, id, force } => {
            if *id == Some(PUBLIC_PLANET_ID) {
                return fail(format!("--id {PUBLIC_PLANET_ID} is the public planet's; leave it out for a random one"));
            }
            let roots = read_roots(roots, home)?;
            let id = id.unwrap_or_else(|| u64::from(rand::random_range(1u32..u32::MAX)));
            make_world(WorldKind::Planet, id, roots, (out, *force), key.as_deref(), as_json)
        }
        PlanetCommand::Show { file } => {
            let file = file.clone().unwrap_or_else(|| home.planet());
            let bytes = fs::read(&file).map_err(in_file(&file))?;
            let world = World::parse(&bytes).map_err(in_file(&file))?;
            Ok(show_world(&world, as_json))
        }
    }
}

/// `hawser moon ...`; what to print.
pub fn moon(command: &MoonCommand, home: &Home, as_json: bool) -> Result<String, CliError> {
    match command {
        MoonCommand::Make { roots, out, key, id, force } => {
            let roots = read_roots(roots, home)?;
            // spec: wire, "World (planet, moon)": by convention the address of its first root
            let first = roots.first().map_or(0, |root| root.identity.address().to_u64());
            let id = id.unwrap_or(first);
            let out = out.clone().unwrap_or_else(|| format!("{id:016x}.moon").into());
            make_world(WorldKind::Moon, id, roots, (&out, *force), key.as_deref(), as_json)
        }
        MoonCommand::Show { file } => {
            let world = World::parse(&fs::read(file).map_err(in_file(file))?).map_err(in_file(file))?;
            Ok(show_world(&world, as_json))
        }
    }
}

fn make_world(
    kind: WorldKind,
    id: u64,
    roots: Vec<Root>,
    (out, force): (&Path, bool),
    key: Option<&Path>,
    as_json: bool,
) -> Result<String, CliError> {
    not_there_yet([out], force)?;
    let signer = match key {
        Some(file) if file.exists() => {
            let text = Zeroizing::new(fs::read_to_string(file).map_err(in_file(file))?);
            text.trim().parse::<SecretIdentity>().map_err(in_file(file))?
        }
        Some(file) => {
            let key = SecretIdentity::generate(&mut rand::rng());
            store::replace(file, SECRET, key.to_text().as_bytes()).map_err(in_file(file))?;
            key
        }
        None => SecretIdentity::generate(&mut rand::rng()),
    };
    let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
    let world = World::make(kind, id, timestamp, *signer.public().public_key(), roots, &signer);
    store::replace(out, PUBLIC, &world.to_bytes()).map_err(in_file(out))?;
    let text = format!("{}: {}", out.display(), show_world(&world, false));
    Ok(if as_json { show_world(&world, true) } else { text })
}

fn read_roots(roots: &[String], home: &Home) -> Result<Vec<Root>, CliError> {
    if roots.len() > WORLD_MAX_ROOTS {
        return fail(format!("--root: at most {WORLD_MAX_ROOTS} times"));
    }
    roots.iter().map(|text| read_root(text, home)).collect()
}

fn read_root(text: &str, home: &Home) -> Result<Root, CliError> {
    let form = || CliError::Failed(format!("--root {text}: not IDENTITY@IP/PORT[,IP/PORT]"));
    let (identity, endpoints) = text.rsplit_once('@').ok_or_else(form)?;
    let identity = read_identity(Some(identity), home)?;
    let endpoints: Vec<SocketAddr> =
        endpoints.split(',').map(parse_endpoint).collect::<Option<_>>().ok_or_else(form)?;
    if endpoints.len() > WORLD_MAX_ENDPOINTS {
        return fail(format!("--root {}: at most {WORLD_MAX_ENDPOINTS} endpoints", identity.address()));
    }
    Ok(Root { identity, endpoints })
}

fn show_world(world: &World, as_json: bool) -> String {
    let endpoint = |e: &SocketAddr| format!("{}/{}", e.ip(), e.port());
    let endpoints = |r: &Root| r.endpoints.iter().map(endpoint).collect::<Vec<_>>();
    let kind = if world.kind == WorldKind::Planet { "planet" } else { "moon" };
    if as_json {
        let root = |r: &Root| json!({"identity": r.identity.to_string(), "stableEndpoints": endpoints(r)});
        return show::pretty(&json!({
            "worldType": kind,
            "id": world.id,
            "timestamp": world.timestamp,
            "selfSigned": world.is_self_signed(),
            "updatesMustBeSignedBy": hex::encode(world.update_key),
            "signature": hex::encode(world.signature.0),
            "roots": world.roots.iter().map(root).collect::<Vec<_>>(),
        }));
    }
    let signed = if world.is_self_signed() { "" } else { ", not signed with the key it names" };
    let id = if world.kind == WorldKind::Moon { format!("{:016x}", world.id) } else { world.id.to_string() };
    let mut text = format!("{kind} {id} of {} ms{signed}", world.timestamp);
    for root in &world.roots {
        text.push_str(&format!("\n  root {} at {}", root.identity.address(), endpoints(root).join(", ")));
    }
    text
}

/// First and last host address of an IPv4 subnet.
pub fn hosts(subnet: &str) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let Prefix { addr: IpAddr::V4(addr), bits } = subnet.parse().ok()? else { return None };
    if !(1..=30).contains(&bits) {
        return None;
    }
    let mask = u32::MAX << (32 - bits);
    let network = u32::from(addr) & mask;
    Some((Ipv4Addr::from(network + 1), Ipv4Addr::from((network | !mask) - 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_made_shown_and_checked_and_never_overwritten_by_accident() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (home, file) = (Home::new(dir.path()), dir.path().join("identity.secret"));
        let new = |force| identity(&IdentityCommand::New { out: Some(file.clone()), force }, &home, true);
        let made: Value = serde_json::from_str(&new(false).expect("made")).expect("json");
        let refused = new(false).expect_err("there already").to_string();
        assert!(refused.contains("identity.secret: there already"), "{refused}");
        let shown = identity(&IdentityCommand::Show { identity: None }, &home, false).expect("shown");
        assert_eq!(made["publicIdentity"], json!(shown));
        assert_eq!(shown, fs::read_to_string(dir.path().join("identity.public")).expect("public file"));
        let from_secret = IdentityCommand::Check { identity: Some(file.display().to_string()) };
        assert!(identity(&from_secret, &home, false).expect("valid").contains("valid"));
    }

    #[test]
    fn a_planet_is_made_signed_and_read_back() {
        let dir = tempfile::tempdir().expect("tempdir");
        let home = Home::new(dir.path());
        let out = Some(dir.path().join("identity.secret"));
        identity(&IdentityCommand::New { out, force: false }, &home, false).expect("identity");
        let root = format!("{}@192.0.2.1/9993,2001:db8::1/9993", dir.path().join("identity.public").display());
        let key = dir.path().join("key");
        let make = |id, force| {
            let (roots, key) = (vec![root.clone()], Some(key.clone()));
            PlanetCommand::Make { roots, out: home.planet(), key, id, force }
        };
        planet(&make(Some(7), false), &home, false).expect("made");
        let first = World::parse(&fs::read(home.planet()).expect("file")).expect("world");
        assert!(first.is_self_signed() && first.roots[0].endpoints.len() == 2);
        std::thread::sleep(std::time::Duration::from_millis(2));
        let refused = planet(&make(Some(7), false), &home, false).expect_err("there already").to_string();
        assert!(refused.contains("planet: there already"), "{refused}");
        planet(&make(Some(7), true), &home, false).expect("made again");
        let second = World::parse(&fs::read(home.planet()).expect("file")).expect("world");
        assert!(second.replaces(Some(&first)), "the same key signs an update");
        let shown = planet(&PlanetCommand::Show { file: None }, &home, true).expect("shown");
        assert!(shown.contains("2001:db8::1/9993") && shown.contains("\"selfSigned\": true"), "{shown}");
        let refused = planet(&make(Some(PUBLIC_PLANET_ID), true), &home, false).expect_err("public id").to_string();
        assert!(refused.contains("public planet"), "{refused}");
    }

    #[test]
    fn a_moon_is_made_under_the_address_of_its_first_root() {
        let dir = tempfile::tempdir().expect("tempdir");
        let home = Home::new(dir.path());
        let secret = SecretIdentity::generate(&mut rand::rng());
        let (root, file) = (format!("{}@192.0.2.1/9993", secret.public()), dir.path().join("moon"));
        let make = MoonCommand::Make { roots: vec![root], out: Some(file.clone()), key: None, id: None, force: false };
        moon(&make, &home, false).expect("made");
        let made = World::parse(&fs::read(&file).expect("file")).expect("world");
        assert!(made.kind == WorldKind::Moon && made.is_self_signed());
        assert_eq!(made.id, secret.public().address().to_u64());
        let shown = moon(&MoonCommand::Show { file }, &home, false).expect("shown");
        assert!(shown.starts_with(&format!("moon {:016x} of", made.id)), "{shown}");
    }

    #[test]
    fn a_subnet_has_its_first_and_last_host() {
        let ip = |s: &str| s.parse::<Ipv4Addr>().expect("ip");
        assert_eq!(hosts("10.147.20.0/24"), Some((ip("10.147.20.1"), ip("10.147.20.254"))));
        assert_eq!(hosts("10.0.0.9/8"), Some((ip("10.0.0.1"), ip("10.255.255.254"))));
        assert_eq!(hosts("10.0.0.0/31"), None);
        assert_eq!(hosts("fd00::/8"), None);
    }
}
