//! `/api/v1/runs`: plays scenarios, each in a new account, so that nothing before affects its outcomes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::error::{ApiError, ApiResult};
use super::{App, scenarios};
use crate::deploy;
use crate::isolation::Account;
use crate::player::{Paths, Player, play_all, set_up};
use crate::progress::Progress;
use crate::report;
use crate::scenario::Scenario;

/// Maximum number of runs to keep.
const KEPT: usize = 10;

/// Maximum number of events of a run whose paths are kept.
const KEPT_EVENTS: usize = 2_000;

/// Base of the account ids in which scenarios are played.
const FIRST_ACCOUNT: u64 = 555_500_000_000;

/// The newest runs.
#[derive(Debug, Default)]
pub struct Runs {
    runs: Mutex<Vec<Run>>,
    count: AtomicU64,
}

/// A run of a scenario.
#[derive(Debug)]
struct Run {
    id: u64,
    scenario: String,
    total: usize,
    /// The player; `None` before everything is set up, and after the run.
    player: Option<Arc<Player>>,
    outcome: Option<Result<Vec<Value>, String>>,
}

impl Run {
    fn json(&self) -> Value {
        let state = match (&self.outcome, &self.player) {
            (Some(Ok(results)), _) if results.iter().all(|result| result["ok"] == true) => "passed",
            (Some(Ok(_)), _) => "differs",
            (Some(Err(_)), _) => "failed",
            (None, Some(_)) => "playing",
            (None, None) => "deploying",
        };
        let (results, error) = match &self.outcome {
            Some(Ok(results)) => (results.as_slice(), None),
            Some(Err(error)) => (&[][..], Some(error)),
            None => (&[][..], None),
        };
        json!({
            "id": self.id,
            "scenario": self.scenario,
            "state": state,
            "played": if self.outcome.is_some() { self.total } else { self.player.as_ref().map_or(0, |player| player.played()) },
            "total": self.total,
            "results": results,
            "error": error,
        })
    }
}

impl Runs {
    fn lock(&self) -> MutexGuard<'_, Vec<Run>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, id: u64, change: impl FnOnce(&mut Run)) {
        if let Some(run) = self.lock().iter_mut().find(|run| run.id == id) {
            change(run);
        }
    }
}

/// Lists the runs, newest first.
pub async fn list(State(app): State<Arc<App>>) -> Json<Value> {
    let runs: Vec<_> = app.runs.lock().iter().rev().map(Run::json).collect();
    Json(json!({"runs": runs}))
}

/// The scenario to play.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewRun {
    scenario: String,
}

/// Starts to play a scenario.
pub async fn start(State(app): State<Arc<App>>, Json(new): Json<NewRun>) -> ApiResult<(StatusCode, Json<Value>)> {
    let (scenario, _) = scenarios::read(&new.scenario)?;
    if app.runs.lock().iter().any(|run| run.outcome.is_none()) {
        return Err(ApiError::conflict("A scenario is being played; wait until it has ended."));
    }
    let id = app.runs.count.fetch_add(1, Ordering::Relaxed) + 1;
    let total = scenario.steps.iter().map(|step| step.times.get()).sum();
    let run = Run { id, scenario: new.scenario, total, player: None, outcome: None };
    let json = run.json();
    {
        let mut runs = app.runs.lock();
        runs.push(run);
        if runs.len() > KEPT {
            runs.remove(0);
        }
    }
    let runtime = Handle::current();
    // On a separate thread, because the compiler cannot prove that the player's closures are `Send`.
    tokio::task::spawn_blocking(move || {
        let outcome = runtime.block_on(play(&app, id, scenario)).map_err(|error| format!("{error:#}"));
        // Dropping the player stops its observer.
        app.runs.change(id, |run| (run.player, run.outcome) = (None, Some(outcome)));
    });
    Ok((StatusCode::ACCEPTED, Json(json)))
}

async fn play(app: &App, id: u64, scenario: Scenario) -> Result<Vec<Value>> {
    let account = Account::new((FIRST_ACCOUNT + id).to_string())?;
    let scenarios = [scenario];
    let paths = Paths::Kept(KEPT_EVENTS);
    let player = set_up(&app.cloud, &account, &scenarios, paths, Progress::silent()).await?;
    let player = Arc::new(player);
    app.runs.change(id, |run| run.player = Some(Arc::clone(&player)));
    let results = play_all(&player, &scenarios, |_, _| {}).await;
    let results =
        results.map(|results| results.iter().map(|result| report::with_path(result, player.observer())).collect());
    deploy::delete_stack(&app.cloud, &account, "gatehouse").await?;
    results
}
