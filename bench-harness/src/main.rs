//! The `bench-harness` command. Everything it does is in the library.

fn main() -> std::process::ExitCode {
    bench_harness::cli::run()
}
