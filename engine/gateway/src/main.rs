//! The `hawser` command. Everything it does is in the library, where tests can reach it.

fn main() -> std::process::ExitCode {
    gateway::cli::run()
}
