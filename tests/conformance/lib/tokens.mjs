// Token recipes: how a case makes the token for a client of its own invention.

import { createHmac } from "node:crypto";

const HELP = `a token recipe is one of
  none                    the token is the empty string's stand-in "none"
  literal:TEXT            the same text for every client
  template:TEXT           TEXT with {clientId}, {userId} and {projectId} filled in
  jwt-hs256:SECRET        an HS256 JWT with the claims clientId, userId, partition, projectIds, permissions, exp`;

const base64url = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");

export const signHs256 = (claims, secret) => {
  const signed = `${base64url({ alg: "HS256", typ: "JWT" })}.${base64url(claims)}`;
  return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
};

/**
 * A recipe is `{ claims, make(identity) }`. With `claims` the token binds the client: its id, its user, its
 * projects, its end; a case that is about those runs only then.
 */
export const parseRecipe = (text, extraClaims = {}) => {
  const [kind, ...rest] = text.split(":");
  const argument = rest.join(":");
  switch (kind) {
    case "none":
      return { claims: false, make: () => "none" };
    case "literal":
      return { claims: false, make: () => argument };
    case "template":
      return {
        claims: false,
        make: ({ clientId, userId, projects }) =>
          argument
            .replaceAll("{clientId}", clientId)
            .replaceAll("{userId}", userId ?? "")
            .replaceAll("{projectId}", projects[0] ?? ""),
      };
    case "jwt-hs256":
      if (argument === "") break;
      return {
        claims: true,
        make: ({ clientId, userId, projects, expiresInSeconds = 3600, secret = argument }) =>
          signHs256(
            {
              clientId,
              sub: clientId,
              ...(userId === undefined ? {} : { userId }),
              partition: projects,
              projectIds: projects,
              permissions: ["*"],
              iat: Math.floor(Date.now() / 1000),
              exp: Math.floor(Date.now() / 1000) + expiresInSeconds,
              ...extraClaims,
            },
            secret,
          ),
      };
  }
  throw new Error(`"${text}" is no token recipe: ${HELP}`);
};
