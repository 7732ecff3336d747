// Package secret keeps what must not be read from the disk: the master key,
// variables and registry logins.
//
// The master key is a file beside the database, never in it. Every value is
// sealed with it for one row: a sealed value that is copied into another row
// does not open there.
//
// Variables hold at a place, and the narrower one wins:
//
//	workspace < project < pipeline < action
//
// A variable of an environment holds for what names that environment, and so far
// nothing does. A workspace and a project have a key pair of their own at first.
//
// Through the front door an encrypted value reads as "!encrypted"; the same text
// sent back leaves the value as it is. The true values come out of Effective and
// OpenLogins alone, which are for the moment of a call to the engine.
package secret
