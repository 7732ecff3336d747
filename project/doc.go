// Package project holds workspaces, which are tenants, and the projects in
// them. Everything else belongs to a project, or to a workspace.
//
//	Create --> ACTIVE <--Update--> CLOSED
//	              |                  |
//	              +----- Delete -----+--> deleted: not found, its name is free,
//	              ^                       its rows and data are still there
//	              |                         |            |
//	              +------- Restore ---------+         Remove, days later
//
// A project has a name in paths, unique in its workspace, which may change: the
// names it had before lead to it until somebody takes them.
package project
