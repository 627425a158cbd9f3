//! `/api/v1/faults`: faults between a function and the services that it calls.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::Result;
use aws_sdk_lambda::types::Environment;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;

use super::App;
use super::error::{ApiError, ApiResult};
use crate::fault_proxy::{Fault, FaultProxy, RandomFault, SERVICES, Strike};
use crate::observer::{FaultStrike, now};
use crate::tools;

/// Maximum duration of a fault.
const MAX_SECONDS: u64 = 3600;

/// The kinds of faults, each with its description.
const KINDS: [(Fault, &str); 8] = [
    (Fault::Throttled, "The service answers that there were too many requests."),
    (Fault::ServerError, "The service answers with an internal error (500)."),
    (Fault::LostRequest, "The connection breaks before the service receives the request."),
    (Fault::LostResponse, "The service does its work, and the response is lost."),
    (Fault::Hangs, "No response ever comes."),
    (Fault::Slow, "The service receives the request two seconds late."),
    (Fault::KilledBefore, "The function's process is killed before the call."),
    (Fault::KilledAfter, "The function's process is killed after the call, before the response."),
];

/// The proxies, one per function that has had a fault, and the active faults.
#[derive(Debug, Default)]
pub struct Faults {
    proxies: Mutex<HashMap<String, FaultProxy>>,
    active: std::sync::Mutex<Vec<ActiveFault>>,
    next_id: AtomicU64,
}

/// An active fault.
#[derive(Debug)]
struct ActiveFault {
    id: u64,
    /// The function's crate name.
    function: String,
    fault: RandomFault,
}

/// A fault to set.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewFault {
    /// The function's crate name.
    function: String,
    /// The service; `None` for all.
    service: Option<String>,
    fault: String,
    /// From 0 to 1.
    #[serde(default = "certain")]
    probability: f64,
    #[serde(default = "minute")]
    seconds: u64,
}

fn certain() -> f64 {
    1.0
}

fn minute() -> u64 {
    60
}

impl Faults {
    fn active(&self) -> std::sync::MutexGuard<'_, Vec<ActiveFault>> {
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        active.retain(|active| active.fault.until > Instant::now());
        active
    }
}

/// Lists the active faults, and the kinds that can be set.
pub async fn list(State(app): State<Arc<App>>) -> ApiResult<Json<Value>> {
    let active: Vec<_> = app.faults.active().iter().map(ActiveFault::json).collect();
    let kinds = KINDS.map(|(fault, about)| json!({"name": fault.name(), "about": about}));
    Ok(Json(json!({"active": active, "kinds": kinds, "services": SERVICES, "functions": tools::functions()?})))
}

impl ActiveFault {
    fn json(&self) -> Value {
        json!({
            "id": self.id,
            "function": self.function,
            "service": self.fault.service,
            "fault": self.fault.fault.name(),
            "probability": self.fault.probability,
            "secondsLeft": self.fault.until.saturating_duration_since(Instant::now()).as_secs(),
        })
    }
}

/// Sets a fault.
pub async fn add(State(app): State<Arc<App>>, Json(new): Json<NewFault>) -> ApiResult<(StatusCode, Json<Value>)> {
    let fault = new.validate()?;
    let id = app.faults.next_id.fetch_add(1, Ordering::Relaxed) + 1;
    let active = ActiveFault { id, function: new.function.clone(), fault };
    let json = active.json();
    app.faults.active().push(active);
    if let Err(error) = apply(&app, &new.function).await {
        app.faults.active().retain(|active| active.id != id);
        return Err(error.into());
    }
    Ok((StatusCode::CREATED, Json(json)))
}

impl NewFault {
    fn validate(&self) -> ApiResult<RandomFault> {
        let known = KINDS.into_iter().find(|(fault, _)| fault.name() == self.fault);
        let Some((fault, _)) = known else {
            let names = KINDS.map(|(fault, _)| fault.name()).join(", ");
            return Err(ApiError::invalid(format!("The faults are {names}.")));
        };
        if !tools::functions()?.contains(&self.function) {
            return Err(ApiError::invalid(format!("There is no function {}.", self.function)));
        }
        if self.service.as_ref().is_some_and(|service| !SERVICES.contains(&service.as_str())) {
            return Err(ApiError::invalid(format!("The services are {}.", SERVICES.join(", "))));
        }
        if !(0.0..=1.0).contains(&self.probability) || !(1..=MAX_SECONDS).contains(&self.seconds) {
            return Err(ApiError::invalid("The probability is from 0 to 1, and the time from 1 to 3600 seconds."));
        }
        let until = Instant::now() + Duration::from_secs(self.seconds);
        Ok(RandomFault { service: self.service.clone(), fault, probability: self.probability, until })
    }
}

/// Removes a fault.
pub async fn remove(State(app): State<Arc<App>>, Path(id): Path<u64>) -> ApiResult<StatusCode> {
    let removed = {
        let mut active = app.faults.active();
        let at = active.iter().position(|active| active.id == id);
        at.map(|at| active.remove(at))
    };
    let removed = removed.ok_or_else(|| ApiError::missing("There is no such fault, or it has ended."))?;
    apply(&app, &removed.function).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes all faults.
pub async fn remove_all(State(app): State<Arc<App>>) -> ApiResult<StatusCode> {
    let removed: Vec<_> = app.faults.active().drain(..).collect();
    for fault in removed {
        apply(&app, &fault.function).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Sets the faults of a function's proxy. The first fault starts the proxy and redirects the function to it.
async fn apply(app: &Arc<App>, function: &str) -> Result<()> {
    let mut proxies = app.faults.proxies.lock().await;
    let of_function = |active: &&ActiveFault| active.function == function;
    let faults = app.faults.active().iter().filter(of_function).map(|active| active.fault.clone()).collect();
    let deployed = app.deployment.function(function)?.to_owned();
    if !proxies.contains_key(function) {
        let proxy = FaultProxy::start(&app.cloud).await?;
        put_behind(app, &proxy, &deployed).await?;
        proxies.insert(function.to_owned(), proxy);
    }
    let Some(proxy) = proxies.get(function) else { return Ok(()) };
    let (strikes, reported) = mpsc::unbounded_channel();
    proxy.fail_randomly(faults, strikes);
    tokio::spawn(report(Arc::clone(app), deployed, reported));
    Ok(())
}

/// Redirects a function's calls to a proxy.
async fn put_behind(app: &App, proxy: &FaultProxy, deployed: &str) -> Result<()> {
    let found = app.clients.lambda.get_function_configuration().function_name(deployed).send().await?;
    let mut variables = found.environment().and_then(|all| all.variables()).cloned().unwrap_or_default();
    proxy.redirect(&mut variables);
    let environment = Environment::builder().set_variables(Some(variables)).build();
    let update = app.clients.lambda.update_function_configuration().function_name(deployed);
    update.environment(environment).send().await?;
    Ok(())
}

/// Marks the events whose calls were struck by a fault.
async fn report(app: Arc<App>, function: String, mut strikes: mpsc::UnboundedReceiver<Strike>) {
    while let Some(Strike { service, operation, fault, ids }) = strikes.recv().await {
        let (service, fault) = (service.to_owned(), fault.name().to_owned());
        app.observer.add_strike(&FaultStrike { function: function.clone(), service, operation, fault, at: now(), ids });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new_fault(fault: &str, function: &str, probability: f64, seconds: u64) -> NewFault {
        let (fault, function) = (fault.to_owned(), function.to_owned());
        NewFault { function, service: Some("SNS".to_owned()), fault, probability, seconds }
    }

    #[test]
    fn invalid_fault_is_refused() {
        assert!(new_fault("throttled", "button", 0.5, 60).validate().is_ok());
        for wrong in [
            new_fault("meteor", "button", 0.5, 60),
            new_fault("throttled", "lamp", 0.5, 60),
            new_fault("throttled", "button", 1.5, 60),
            new_fault("throttled", "button", f64::NAN, 60),
            new_fault("throttled", "button", 0.5, 0),
            NewFault { service: Some("S3".to_owned()), ..new_fault("throttled", "button", 0.5, 60) },
        ] {
            assert!(wrong.validate().is_err(), "{wrong:?}");
        }
    }
}
