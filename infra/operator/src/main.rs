//! The operator tool `gatehouse`. See the library for its structure.

use std::process::ExitCode;

fn main() -> ExitCode {
    operator::main()
}
