//! The `ringsync` program. Everything it does is in the library's cli room.

fn main() -> std::process::ExitCode {
    ringsync::cli::main(std::env::args_os())
}
