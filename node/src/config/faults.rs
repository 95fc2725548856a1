//! What is wrong with a configuration: everything at once, by variable.

use std::fmt;

/// One thing that is wrong with one variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The environment variable, such as `HTTP_PORT`; its flag is `--http-port`.
    pub variable: &'static str,
    /// What is wrong and what to write instead; never the value of a secret.
    pub message: String,
}

/// Why there is no configuration.
#[derive(Debug)]
pub enum Faults {
    /// The command line itself: an unknown flag, or `--help` or `--version`, which also end here.
    Usage(clap::Error),
    /// Every setting that is wrong, in the order of the help text; never empty.
    Settings(Vec<Fault>),
}

impl Faults {
    /// Prints it where it belongs and ends the process: 0 after `--help` and `--version`, else 2.
    pub fn exit(self) -> ! {
        match self {
            Self::Usage(error) => error.exit(),
            Self::Settings(_) => {
                eprintln!("{self}");
                std::process::exit(2)
            }
        }
    }

    /// The names of the variables at fault, in order.
    pub fn variables(&self) -> Vec<&'static str> {
        match self {
            Self::Usage(_) => Vec::new(),
            Self::Settings(faults) => faults.iter().map(|f| f.variable).collect(),
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(error) => error.fmt(f),
            Self::Settings(faults) => {
                let n = faults.len();
                write!(f, "the configuration has {n} fault{}:", if n == 1 { "" } else { "s" })?;
                faults.iter().try_for_each(|fault| write!(f, "\n  {}: {}", fault.variable, fault.message))
            }
        }
    }
}

impl std::error::Error for Faults {}
