/** What a module of rules is made of. See docs/RULES.md. */
declare namespace Insieme {
  type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

  /** The committed form of an event. There is no event id: rules run before there is one, too. */
  interface Event<Payload = any> {
    /** The draft's own id (`draftId`; in v1 `id`). */
    readonly id: string;
    readonly type: string;
    readonly payload: Payload;
    /** v1's label within the project; in the classic dialect the partition. */
    readonly partition: string;
    readonly clientId: string;
    readonly userId: string | null;
    /** When it was committed, in Unix milliseconds. The only clock there is. */
    readonly serverTs: number;
    /** v1 only. */
    readonly schemaVersion: number | null;
    /** v1 only. */
    readonly meta: { [key: string]: Json } | null;
  }

  /** Who submits, with what the token says. The log does not keep that, so `reduce` does not see it. */
  interface Client {
    readonly clientId: string;
    readonly userId: string | null;
    readonly roles: readonly string[];
    readonly permissions: readonly string[];
    /** The claims that `auth.rules_claims` names. */
    readonly claims: { readonly [name: string]: any };
  }

  /** Whether a client may open a partition; in v1 that is the project. */
  type Authorize = (given: { client: Client; partition: string }) => boolean | undefined;

  /** Tells what is wrong with a draft. `code` is of capitals, digits and `_`. It may be called several times. */
  type Reject = (code: string, field?: string, message?: string) => void;

  interface EventType<State, Payload = any> {
    /** The version that `payload` is of below; 1 if it is not given. */
    schemaVersion?: number;
    /** By version: makes a payload of the next version of one of this. */
    upcast?: { [from: number]: (given: { payload: any; type: string; schemaVersion: number }) => any };
    /** A JSON Schema (draft 2020-12) of the payload. */
    schema?: object | boolean;
    /** Whether this client may submit it at all. */
    allow?: (given: { client: Client; payload: Payload; partition: string; type: string }) => boolean | undefined;
    /** Calls `reject` for what stands against it in this state. It changes nothing and returns nothing. */
    check?: (given: {
      readonly state: State;
      readonly payload: Payload;
      readonly event: Event<Payload>;
      readonly client: Client;
      readonly partition: string;
      readonly type: string;
      reject: Reject;
    }) => void;
    /** Changes the state, or returns another. It must not fail on what `check` lets pass. */
    reduce?: (given: {
      state: State;
      readonly payload: Payload;
      readonly event: Event<Payload>;
      readonly partition: string;
      readonly type: string;
    }) => State | void;
  }

  interface Events<State> {
    [type: string]: EventType<State>;
  }

  /** By version: makes a state of this version of one of the version before. */
  interface Migrations<State = any> {
    [version: number]: (given: { state: any }) => State | void;
  }
}

declare module "insieme:actions" {
  export const set: Insieme.EventType<any>;
  export const unset: Insieme.EventType<any>;
  export const treePush: Insieme.EventType<any>;
  export const treeDelete: Insieme.EventType<any>;
  export const treeUpdate: Insieme.EventType<any>;
  export const treeMove: Insieme.EventType<any>;
}
