//! The protocol of Redis (RESP2), as far as tests need it.

use std::io::{self, BufRead, Write};

/// Sends one command.
pub(super) fn send(stream: &mut impl Write, words: &[&str]) -> io::Result<()> {
    let mut command = format!("*{}\r\n", words.len());
    for word in words {
        command.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    stream.write_all(command.as_bytes())
}

/// Reads one whole answer as text. The elements of an array are lines, those of an array within it
/// too. Null is an empty line, and an error begins with `-`.
pub(super) fn receive(stream: &mut impl BufRead) -> io::Result<String> {
    let mut lines = Vec::new();
    receive_lines(stream, &mut lines)?;
    Ok(lines.join("\n"))
}

fn receive_lines(stream: &mut impl BufRead, lines: &mut Vec<String>) -> io::Result<()> {
    let mut head = String::new();
    if stream.read_line(&mut head)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let head = head.strip_suffix("\r\n").ok_or_else(invalid)?;
    let (kind, rest) = head.split_at_checked(1).ok_or_else(invalid)?;
    match kind {
        "-" => lines.push(head.to_owned()),
        "+" | ":" => lines.push(rest.to_owned()),
        "$" | "*" if rest == "-1" => lines.push(String::new()),
        "$" => {
            let mut text = vec![0; length(rest)? + 2];
            stream.read_exact(&mut text)?;
            text.truncate(text.len() - 2);
            lines.push(String::from_utf8_lossy(&text).into_owned());
        }
        "*" => {
            for _ in 0..length(rest)? {
                receive_lines(stream, lines)?;
            }
        }
        _ => return Err(invalid()),
    }
    Ok(())
}

fn length(text: &str) -> io::Result<usize> {
    text.parse().map_err(|_| invalid())
}

/// An answer that ends too early looks like this too.
fn invalid() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not an answer of Redis")
}
