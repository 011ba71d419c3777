//! A pipeline whose keys live on several servers, taken apart and put together again.

use super::slots::slot_of;
use redis::{Cmd, Pipeline, RedisFuture, Value, aio::ConnectionLike};

/// Commands of one slot, or without keys.
pub(super) struct Part {
    pub(super) slot: Option<u16>,
    /// None of its answers is ignored.
    pub(super) pipeline: Pipeline,
    /// Where its commands stood in the whole.
    places: Vec<usize>,
}

/// One part for each slot.
pub(super) fn by_slot(pipeline: &Pipeline) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for (place, command) in pipeline.cmd_iter().enumerate() {
        let slot = slot_of(command);
        match parts.iter_mut().find(|part| part.slot == slot) {
            Some(part) => part.add(place, command),
            None => parts.push(Part::of(slot, place, command)),
        }
    }
    parts
}

/// The answers to all commands in their order.
pub(super) fn put_together(parts: &[Part], answers: Vec<Vec<Value>>) -> Vec<Value> {
    let places = parts.iter().flat_map(|part| part.places.iter().copied());
    let mut found: Vec<(usize, Value)> = places.zip(answers.into_iter().flatten()).collect();
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().map(|(_, value)| value).collect()
}

/// The slot of the first command that has one.
pub(super) fn first_slot(pipeline: &Pipeline) -> Option<u16> {
    pipeline.cmd_iter().find_map(slot_of)
}

/// The same commands for a server that is only about to get their slot.
pub(super) fn asking(pipeline: &Pipeline) -> Pipeline {
    let mut asking = Pipeline::with_capacity(pipeline.len() * 2);
    for command in pipeline.cmd_iter() {
        asking.cmd("ASKING").ignore();
        asking.add_command(command.clone());
    }
    asking
}

impl Part {
    fn of(slot: Option<u16>, place: usize, command: &Cmd) -> Self {
        let mut part = Self { slot, pipeline: Pipeline::new(), places: Vec::new() };
        part.add(place, command);
        part
    }

    fn add(&mut self, place: usize, command: &Cmd) {
        self.pipeline.add_command(command.clone());
        self.places.push(place);
    }
}

/// Answers that are there already, for the library to read: it alone knows which of a pipeline's answers are ignored.
pub(super) struct Answered(pub(super) Vec<Value>);

impl ConnectionLike for Answered {
    fn req_packed_command<'a>(&'a mut self, _: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async { Ok(self.0.pop().unwrap_or(Value::Nil)) })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        _: &'a Pipeline,
        _: usize,
        _: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async { Ok(std::mem::take(&mut self.0)) })
    }

    fn get_db(&self) -> i64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipeline(keys: &[&str]) -> Pipeline {
        let mut pipeline = Pipeline::new();
        for key in keys {
            pipeline.cmd("GET").arg(*key);
        }
        pipeline
    }

    #[test]
    fn answers_come_back_in_the_order_of_the_commands() {
        let whole = pipeline(&["{a}1", "{b}1", "{a}2", "{c}1", "{b}2"]);
        let parts = by_slot(&whole);
        assert_eq!(parts.iter().map(|part| part.places.len()).collect::<Vec<_>>(), [2, 2, 1]);
        let answers = parts
            .iter()
            .map(|part| part.places.iter().map(|place| Value::Int(i64::try_from(*place).unwrap())).collect());
        let together = put_together(&parts, answers.collect());
        assert_eq!(together, (0..5).map(Value::Int).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn what_the_caller_ignores_stays_ignored() {
        let mut whole = Pipeline::new();
        whole.cmd("SET").arg("a").arg(1).ignore();
        whole.cmd("GET").arg("a");
        let mut answers = Answered(vec![Value::Okay, Value::Int(1)]);
        let found: Vec<u32> = whole.query_async(&mut answers).await.unwrap();
        assert_eq!(found, [1]);
    }
}
