//! A command line that can't be understood, and those that ask for help or the version.

use super::output::{Exit, Failed, Output};
use clap::error::ErrorKind;
use shared::printing::is_reader_gone;

/// Help and version are results; anything else is a mistake, told in the form that was asked for.
pub(super) fn end(error: &clap::Error) -> Exit {
    let printed = error.print();
    if !error.use_stderr() {
        return match printed {
            Err(error) if !is_reader_gone(&error) => Exit::Failed,
            _ => Exit::Done,
        };
    }
    let mut asked = std::env::args_os().skip(1).take_while(|argument| argument != "--");
    if asked.any(|argument| argument == "--json") {
        Output::new(true).document_of(&Failed::new(Exit::Usage, "usage", sentence(error)));
    }
    Exit::Usage
}

fn sentence(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "a command is missing: see --help".to_owned();
    }
    let text = error.render().to_string();
    text.strip_prefix("error: ").unwrap_or(&text).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::Arguments;
    use super::*;
    use clap::Parser;

    #[test]
    fn a_mistake_is_a_sentence() {
        let wrong = |line: &str| sentence(&Arguments::try_parse_from(line.split(' ')).unwrap_err());
        assert!(wrong("issuer status --nonsense").starts_with("unexpected argument '--nonsense' found"));
        assert_eq!(wrong("issuer token"), "a command is missing: see --help");
        assert!(wrong("issuer token add x").contains("--role"));
    }
}
