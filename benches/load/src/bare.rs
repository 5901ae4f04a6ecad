//! A bare fan-out: the least that a WebSocket server has to do. It gives each event the next number of its
//! project, answers, and sends it to the others, encoded once. It checks, stores and remembers nothing. What
//! a server with a log behind it reaches is read against this.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use anyhow::{Context, Result};
use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::ws::{Socket, text_frame};

type Queue = mpsc::UnboundedSender<Bytes>;

#[derive(Default)]
struct Project {
    last: u64,
    members: HashMap<u64, Queue>,
}

#[derive(Default)]
struct Server {
    projects: RefCell<HashMap<String, Project>>,
}

/// Serves until it is ended.
pub async fn serve(listen: &str) -> Result<()> {
    let listener = TcpListener::bind(listen).await.with_context(|| format!("listening on {listen}"))?;
    println!("bare ready: ws://{}/", listener.local_addr()?);
    let server = Rc::new(Server::default());
    let mut connections = tokio::task::JoinSet::new();
    let mut number = 0u64;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                number += 1;
                connections.spawn_local(Rc::clone(&server).connection(accepted?.0, number));
            }
            // A connection's end is its client's affair.
            Some(_) = connections.join_next() => {}
        }
    }
}

impl Server {
    async fn connection(self: Rc<Self>, stream: TcpStream, number: u64) -> Result<()> {
        let (queue, mut queued) = mpsc::unbounded_channel::<Bytes>();
        let mut socket = Socket::accept(stream).await?;
        let mut project = String::new();
        let mut scratch = vec![0; 16 * 1024];
        let mut replies = Vec::new();
        let ended = loop {
            tokio::select! {
                ready = socket.ready() => if let Err(error) = ready { break error },
                Some(frame) = queued.recv() => {
                    socket.queue_frame(&frame);
                    while let Ok(frame) = queued.try_recv() {
                        socket.queue_frame(&frame);
                    }
                }
            }
            let read = socket.read(&mut scratch, |text| {
                let message: serde_json::Value = serde_json::from_slice(text)?;
                replies.push(self.answer(&message, number, &queue, &mut project));
                Ok(())
            });
            if let Err(error) = read {
                break error;
            }
            for reply in replies.drain(..) {
                socket.queue(reply.as_bytes());
            }
            if let Err(error) = socket.flush() {
                break error;
            }
        };
        if let Some(project) = self.projects.borrow_mut().get_mut(&project) {
            project.members.remove(&number);
        }
        Err(ended)
    }

    /// Does what a message says, and gives the answer to it.
    fn answer(&self, message: &serde_json::Value, number: u64, queue: &Queue, name: &mut String) -> String {
        let payload = &message["payload"];
        let mut projects = self.projects.borrow_mut();
        if message["type"] == "connect" {
            payload["projectId"].as_str().unwrap_or_default().clone_into(name);
            let project = projects.entry(name.clone()).or_default();
            project.members.insert(number, queue.clone());
            return format!(
                r#"{{"type":"connected","protocolVersion":"1.0","payload":{{"projectLastCommittedId":{}}}}}"#,
                project.last
            );
        }
        let Some(project) = projects.get_mut(name) else { return String::new() };
        let mut results = Vec::new();
        for event in payload["events"].as_array().into_iter().flatten() {
            project.last += 1;
            let mut committed = event.clone();
            committed["committedId"] = project.last.into();
            results.push(format!(
                r#"{{"id":{},"status":"committed","committedId":{}}}"#,
                event["id"], project.last
            ));
            let frame = Bytes::from(text_frame(
                format!(r#"{{"type":"event_broadcast","protocolVersion":"1.0","payload":{committed}}}"#)
                    .as_bytes(),
            ));
            for (_, member) in project.members.iter().filter(|(member, _)| **member != number) {
                // One that has gone takes itself out.
                drop(member.send(frame.clone()));
            }
        }
        format!(
            r#"{{"type":"submit_events_result","protocolVersion":"1.0","payload":{{"results":[{}]}}}}"#,
            results.join(",")
        )
    }
}
