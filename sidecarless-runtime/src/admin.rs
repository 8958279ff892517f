//! The admin API over the supervisor's unix socket: HTTP in, requests to the node out.

use std::convert::Infallible;

use axum::Json;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use ramet_control::admin::{Applied, Apply, Instance, LogLine, Node, Object, Problem};
use ramet_manifest::{Kind, Name, QualifiedName, Source};
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::oneshot;

use crate::event::{Event, Events};
use crate::logs::{Filter, Logs, Reading};
use crate::node::{Change, What};

mod body;

/// The longest body of a request in bytes.
const BODY_BYTES_MAX: usize = 16 << 20;

/// Something asked of the node.
#[derive(Debug)]
pub(crate) enum Request {
    /// How it is.
    Node(oneshot::Sender<Node>),
    /// What it was told to run.
    Objects(ObjectFilter, oneshot::Sender<Vec<Object>>),
    /// What runs.
    Instances(ObjectFilter, oneshot::Sender<Vec<Instance>>),
    /// The certificate that the gateway shows, PEM; none where it speaks plain HTTP.
    Certificate(oneshot::Sender<Option<String>>),
    /// To run something else.
    Change(Change),
}

/// Which objects somebody wants; what is left out is any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ObjectFilter {
    pub(crate) kind: Option<Kind>,
    pub(crate) namespace: Option<Name>,
    pub(crate) name: Option<Name>,
}

impl ObjectFilter {
    /// Whether an object is wanted.
    pub(crate) fn admits(&self, kind: Kind, name: &QualifiedName) -> bool {
        self.kind.is_none_or(|wanted| wanted == kind)
            && self.namespace.as_ref().is_none_or(|wanted| *wanted == name.namespace)
            && self.name.as_ref().is_none_or(|wanted| *wanted == name.name)
    }
}

/// The query of `instances` and `logs`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FunctionQuery {
    namespace: Option<Name>,
    function: Option<Name>,
    #[serde(default)]
    follow: bool,
}

#[derive(Clone, Debug)]
struct Shared {
    events: Events,
    logs: Logs,
}

/// The API's routes.
pub(crate) fn router(events: Events, logs: Logs) -> Router {
    Router::new()
        .route("/v1/node", get(node))
        .route("/v1/certificate", get(certificate))
        .route("/v1/apply", post(apply))
        .route("/v1/delete", post(delete_named))
        .route("/v1/objects", get(objects).delete(delete))
        .route("/v1/instances", get(instances))
        .route("/v1/logs", get(logs_of))
        .fallback(async || Refused::new(StatusCode::NOT_FOUND, "there is no such path in the admin API"))
        .method_not_allowed_fallback(async || {
            Refused::new(StatusCode::METHOD_NOT_ALLOWED, "this path of the admin API has no such method")
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(Shared { events, logs })
}

/// An answer that is an error.
struct Refused(Box<Problem>);

impl Refused {
    fn new(status: StatusCode, detail: &str) -> Self {
        let title = status.canonical_reason().unwrap_or_default().to_owned();
        let detail = detail.to_owned();
        Self(Box::new(Problem { title, status: status.as_u16(), detail, errors: Vec::new() }))
    }

    /// The node's task has ended, so the supervisor is about to.
    fn ending() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the node is stopping")
    }
}

impl From<QueryRejection> for Refused {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(StatusCode::BAD_REQUEST, &rejection.body_text())
    }
}

impl From<JsonRejection> for Refused {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), &rejection.body_text())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, [(header::CONTENT_TYPE, "application/problem+json")], Json(self.0)).into_response()
    }
}

impl Shared {
    /// Asks the node and waits for its answer.
    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, Refused> {
        let (sender, answer) = oneshot::channel();
        self.events.send(Event::Admin(request(sender))).await.map_err(|_| Refused::ending())?;
        answer.await.map_err(|_| Refused::ending())
    }

    async fn change(&self, what: What) -> Result<Json<Applied>, Refused> {
        let outcome = self.ask(|answer| Request::Change(Change { what, answer })).await?;
        outcome.map(Json).map_err(|problem| Refused(Box::new(problem)))
    }
}

async fn node(State(shared): State<Shared>) -> Result<Json<Node>, Refused> {
    shared.ask(Request::Node).await.map(Json)
}

/// So that who may use the admin socket can tell this node from something else that listens where it should.
async fn certificate(State(shared): State<Shared>) -> Result<Json<Option<String>>, Refused> {
    shared.ask(Request::Certificate).await.map(Json)
}

async fn apply(
    State(shared): State<Shared>,
    body: Result<Json<Apply>, JsonRejection>,
) -> Result<Json<Applied>, Refused> {
    shared.change(What::Apply(sources(body?.0))).await
}

/// Takes out everything that manifests name, or nothing.
async fn delete_named(
    State(shared): State<Shared>,
    body: Result<Json<Apply>, JsonRejection>,
) -> Result<Json<Applied>, Refused> {
    shared.change(What::DeleteNamed(sources(body?.0))).await
}

fn sources(body: Apply) -> Vec<Source> {
    let source = |source: ramet_control::admin::Source| Source {
        name: source.name,
        text: source.text,
        base_dir: Some(source.base_dir).filter(|folder| folder.starts_with('/')).map(Into::into),
    };
    body.sources.into_iter().map(source).collect()
}

async fn objects(
    State(shared): State<Shared>,
    filter: Result<Query<ObjectFilter>, QueryRejection>,
) -> Result<Json<Vec<Object>>, Refused> {
    let Query(filter) = filter?;
    shared.ask(|answer| Request::Objects(filter, answer)).await.map(Json)
}

async fn delete(
    State(shared): State<Shared>,
    filter: Result<Query<ObjectFilter>, QueryRejection>,
) -> Result<Json<Applied>, Refused> {
    let Query(ObjectFilter { kind: Some(kind), namespace, name: Some(name) }) = filter? else {
        return Err(Refused::new(StatusCode::BAD_REQUEST, "say which object to delete: kind, name, and namespace"));
    };
    let namespace = namespace.unwrap_or_else(Name::default_namespace);
    shared.change(What::Delete(kind, QualifiedName::new(namespace, name))).await
}

async fn instances(
    State(shared): State<Shared>,
    query: Result<Query<FunctionQuery>, QueryRejection>,
) -> Result<Json<Vec<Instance>>, Refused> {
    let Query(FunctionQuery { namespace, function, .. }) = query?;
    let filter = ObjectFilter { kind: None, namespace, name: function };
    shared.ask(|answer| Request::Instances(filter, answer)).await.map(Json)
}

async fn logs_of(
    State(shared): State<Shared>,
    query: Result<Query<FunctionQuery>, QueryRejection>,
) -> Result<Response, Refused> {
    let Query(FunctionQuery { namespace, function, follow }) = query?;
    let text = |name: Option<Name>| name.map(|name| name.to_string());
    let filter = Filter { namespace: text(namespace), function: text(function) };
    let reading = shared.logs.read(filter.clone()).await.ok_or_else(Refused::ending)?;
    let content_type = [(header::CONTENT_TYPE, "application/x-ndjson")];
    let body = if follow {
        Body::new(body::Lines::new(following(reading, filter)))
    } else {
        Body::from(reading.lines.iter().flat_map(json_line).collect::<Vec<u8>>())
    };
    Ok((content_type, body).into_response())
}

/// Sends lines as they come, until the reader goes away or the node ends.
fn following(reading: Reading, filter: Filter) -> tokio::sync::mpsc::Receiver<Result<Bytes, Infallible>> {
    let (sender, receiver) = tokio::sync::mpsc::channel(64);
    let Reading { lines, mut following } = reading;
    tokio::spawn(async move {
        for line in &lines {
            if sender.send(Ok(json_line(line).into())).await.is_err() {
                return;
            }
        }
        loop {
            let line = tokio::select! {
                line = following.recv() => line,
                () = sender.closed() => return,
            };
            match line {
                Ok(line) if filter.admits(&line) => {
                    if sender.send(Ok(json_line(&line).into())).await.is_err() {
                        return;
                    }
                }
                // A reader that is too slow misses lines rather than holding functions up.
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    });
    receiver
}

fn json_line(line: &LogLine) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(line).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}
