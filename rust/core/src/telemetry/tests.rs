use std::io::{PipeReader, Read};

use super::*;

/// A log of its own for this thread, whose lines can be read.
struct Own {
    queue: Arc<Queue>,
    level: LevelHandle,
    reader: PipeReader,
    _set: tracing::subscriber::DefaultGuard,
}

impl Own {
    fn new(level: LogLevel) -> Self {
        let (reader, pipe) = io::pipe().unwrap();
        let queue = Arc::new(Queue::new(QUEUE));
        let writing = Arc::clone(&queue);
        thread::spawn(move || writing.write_to(pipe, |lost| format!("{lost}\n")));
        let lines = Lines { queue: Arc::clone(&queue), json: Arc::new(AtomicBool::new(false)) };
        let (subscriber, handle) = subscriber(lines);
        let own = Self {
            queue,
            level: handle,
            reader,
            _set: tracing::subscriber::set_default(subscriber),
        };
        own.set(level);
        own
    }

    fn set(&self, level: LogLevel) {
        self.level.reload(filter(level)).unwrap();
    }

    /// The lines written so far, without their times.
    fn lines(&mut self) -> Vec<String> {
        self.queue.push(b"                         end\n");
        assert!(self.queue.flush(Duration::from_secs(60)));
        let mut read = vec![0; 64 * 1024];
        let length = self.reader.read(&mut read).unwrap();
        let text = String::from_utf8(read[..length].to_vec()).unwrap();
        let mut lines: Vec<_> = text.lines().map(|line| line[25..].to_owned()).collect();
        assert_eq!(lines.pop().unwrap(), "end");
        lines
    }
}

#[test]
fn the_level_can_be_changed_and_decides_on_every_line() {
    let mut own = Own::new(LogLevel::Info);
    let speak = || {
        tracing::error!("1");
        tracing::warn!("2");
        tracing::info!("3");
        tracing::debug!("4");
        tracing::trace!("5");
    };
    let all = [
        "ERROR telemetry.tests 1",
        "WARN  telemetry.tests 2",
        "INFO  telemetry.tests 3",
        "DEBUG telemetry.tests 4",
        "TRACE telemetry.tests 5",
    ];
    let levels =
        ["off", "error", "warn", "info", "debug", "trace"].map(|word| format!("\"{word}\""));
    for (count, word) in levels.iter().enumerate() {
        own.set(serde_json::from_str(word).unwrap());
        speak();
        assert_eq!(own.lines(), all[..count], "{word}");
    }
}

#[test]
fn lines_of_a_request_carry_its_id_and_those_after_it_do_not() {
    let mut own = Own::new(LogLevel::Debug);
    let span = request_span("abc");
    {
        let _entered = span.enter();
        tracing::debug!(attempt = 1, "inside");
        tracing::warn!(request_id = "own", "named");
    }
    tracing::debug!("outside");
    assert_eq!(
        own.lines(),
        [
            "DEBUG telemetry.tests inside attempt=1 request_id=abc",
            "WARN  telemetry.tests named request_id=own",
            "DEBUG telemetry.tests outside"
        ]
    );
    own.set(LogLevel::Info);
    assert!(request_span("abc").is_disabled(), "it costs nothing where no line would show it");
}

#[test]
fn fields_have_their_types_and_errors_their_causes() {
    #[derive(Debug)]
    struct Outer(io::Error);
    impl std::fmt::Display for Outer {
        fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str("failed")
        }
    }
    impl std::error::Error for Outer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }

    let mut own = Own::new(LogLevel::Info);
    let error = Outer(io::Error::other("reset"));
    let error: &dyn std::error::Error = &error;
    tracing::info!(a = 1_u64, b = -1, c = true, d = 0.5, e = "x", f = %"y z", error, "all");
    assert_eq!(
        own.lines(),
        ["INFO  telemetry.tests all a=1 b=-1 c=true d=0.5 e=x f=\"y z\" error=\"failed: reset\""]
    );
}

#[test]
fn events_of_libraries_are_not_written() {
    let mut own = Own::new(LogLevel::Trace);
    tracing::error!(target: "h2::codec", "a frame with a header");
    tracing::error!(target: "gpustack_fast_core_of_another", "not ours");
    assert!(own.lines().is_empty());
}
