//! A classifier of uploaded tables: a file comes as one binary message, is kept beside the session's
//! state, and is classified in small steps that its user can follow. The model is loaded once per
//! worker and shared by all its sessions.
//!
//! ```sh
//! gateway dev --web worker/examples/web/classify --build 'cargo build -p single-state-worker --examples' \
//!   -- target/debug/examples/classify
//! ```

mod model;
mod picture;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use single_state_worker::{App, Bytes, Context, Result, Session, ensure};

use crate::model::{Model, Row, SPECIES, read_rows};

/// What the upload is kept under.
const UPLOAD: &str = "rows.csv";
/// Rows that one step classifies, and how long it waits for the next: short, so that users are heard.
const STEP: usize = 10;
const PAUSE: Duration = Duration::from_millis(20);

/// How far the upload is classified. The upload itself is not in here: it would be saved again with
/// every step.
#[derive(Default, Serialize, Deserialize)]
struct Classifier {
    done: usize,
    total: usize,
    counts: BTreeMap<String, usize>,
    /// How sure the model was of each row, from 0 to 1.
    sureness: Vec<f64>,
    /// Rows that name their species, and how many of these were classified as it.
    labelled: usize,
    right: usize,
    /// The rows as read from the upload; read again when the session is loaded.
    #[serde(skip)]
    rows: Vec<Row>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "tag", rename_all = "snake_case")]
enum Message {
    /// From a page: what is this one? Lengths and widths in cm.
    Classify { flower: Vec<f64> },
    /// From a page: draw where the model draws the line.
    Draw,
    /// From a page: forget the upload and what came of it.
    Clear,
    /// To itself: the next few rows.
    #[serde(rename = "_step")]
    Step,
}

impl Session for Classifier {
    type Message = Message;

    async fn started(&mut self, ctx: &mut Context) -> Result<()> {
        let model = ctx.shared::<Model>();
        ctx.assign("trained_on", &model.trained_on)?;
        if let Some(upload) = ctx.kept(UPLOAD).await {
            self.rows = read_rows(&upload)?;
        }
        Ok(())
    }

    /// An upload: a table with four numbers a line and, perhaps, the species. Its mistakes are told
    /// before anything of what was there is given up.
    async fn binary(&mut self, upload: Bytes, ctx: &mut Context) -> Result<()> {
        let rows = read_rows(&upload)?;
        ctx.keep(UPLOAD, upload)?;
        *self = Self { total: rows.len(), rows, ..Self::default() };
        self.show(ctx)?;
        ctx.schedule("step", Duration::ZERO, &Message::Step)
    }

    async fn handle(&mut self, message: Message, ctx: &mut Context) -> Result<()> {
        let model = ctx.shared::<Model>();
        match message {
            Message::Classify { flower } => {
                let count = flower.len();
                let Ok(flower) = flower.try_into() else {
                    single_state_worker::bail!("a flower has 4 numbers, not {count}")
                };
                let (species, sureness) = model.classify(&flower);
                ctx.send(&serde_json::json!({
                    "tag": "classified", "species": SPECIES[species], "sureness": sureness,
                }))
            }
            Message::Draw => ctx.send_binary(picture::draw(&model)),
            Message::Clear => {
                ctx.unschedule("step");
                ctx.forget(UPLOAD);
                *self = Self::default();
                self.show(ctx)
            }
            Message::Step => self.step(&model, ctx),
        }
    }
}

impl Classifier {
    fn step(&mut self, model: &Model, ctx: &mut Context) -> Result<()> {
        ensure!(self.rows.len() == self.total, "the upload is gone: send the file again");
        for row in self.rows.iter().skip(self.done).take(STEP) {
            let (species, sureness) = model.classify(&row.flower);
            *self.counts.entry(SPECIES[species].to_owned()).or_default() += 1;
            self.sureness.push((sureness * 1e3).round() / 1e3);
            self.labelled += usize::from(row.species.is_some());
            self.right += usize::from(row.species == Some(species));
        }
        self.done = self.total.min(self.done + STEP);
        self.show(ctx)?;
        if self.done < self.total {
            ctx.schedule("step", PAUSE, &Message::Step)?;
        }
        Ok(())
    }

    fn show(&self, ctx: &mut Context) -> Result<()> {
        let accuracy = (self.labelled > 0).then(|| self.right as f64 / self.labelled as f64);
        ctx.assign("counts", &self.counts)?;
        ctx.assign("sureness", &self.sureness)?;
        ctx.assign("accuracy", &accuracy)?;
        ctx.assign("shares", &picture::shares(&self.counts))?;
        ctx.progress("progress", &serde_json::json!({"done": self.done, "total": self.total}))
    }
}

fn main() -> std::process::ExitCode {
    App::new(Model::train()).run::<Classifier>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use single_state_worker::testing::TestSession;

    fn session() -> TestSession<Classifier> {
        TestSession::with_shared(Model::train())
    }

    #[test]
    fn an_upload_is_classified_step_by_step_and_a_crash_does_not_begin_it_again() {
        let session = session();
        session.send_binary(model::IRIS);
        session.advance(Duration::from_millis(90));
        let done = session.mirror()["progress"]["done"].as_u64().unwrap();
        assert!((10..150).contains(&done), "{done}");
        session.advance(Duration::from_secs(1));
        session.crash();
        session.advance(Duration::from_secs(60));
        let mirror = session.mirror();
        assert_eq!(mirror["progress"], json!({"done": 150, "total": 150}));
        assert_eq!(mirror["sureness"].as_array().unwrap().len(), 150);
        assert_eq!(mirror["counts"]["setosa"], 50);
        assert!(mirror["accuracy"].as_f64().unwrap() > 0.95, "{}", mirror["accuracy"]);
    }

    #[test]
    fn an_upload_that_is_no_table_is_refused_with_its_line_and_changes_nothing() {
        let session = session();
        session.send_binary("5.1,3.5,1.4,0.2\n");
        session.advance(Duration::from_secs(1));
        session.outputs();
        session.send_binary("5.1,3.5,1.4,0.2\n5.1,wide,1.4,0.2\n");
        let error = session.outputs().pop().unwrap();
        assert_eq!(error["error"], "line 2: “wide” is not a number of centimetres");
        assert_eq!(session.mirror()["progress"], json!({"done": 1, "total": 1}));
        assert_eq!(session.mirror()["accuracy"], json!(null), "nothing was labelled");
    }

    #[test]
    fn one_flower_is_classified_at_once() {
        let session = session();
        session.send(json!({"tag": "classify", "flower": [5.1, 3.5, 1.4, 0.2]}));
        let answer = session.outputs().pop().unwrap();
        assert_eq!((&answer["tag"], &answer["species"]), (&json!("classified"), &json!("setosa")));
        session.send(json!({"tag": "classify", "flower": [1.0]}));
        assert_eq!(session.outputs().pop().unwrap()["error"], "a flower has 4 numbers, not 1");
    }

    #[test]
    fn the_picture_is_a_bitmap() {
        let session = session();
        session.send(json!({"tag": "draw"}));
        let bytes = session.outputs().pop().unwrap();
        assert_eq!(bytes[0], u64::from(b'B'));
        assert_eq!(bytes.as_array().unwrap().len(), 54 + 3 * 128 * 96);
    }
}
