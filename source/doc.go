// Package source is git: every project's own bare repository served over smart
// HTTP, mirrors of outside ones, and checkouts for pipelines and builds. All of
// it runs the git program with an environment of our own; nothing that lies in
// a repository, a mirror or a work tree is ever run or read as configuration.
//
// What lies below Config.Dir:
//
//	repos/<project>.git      own repository, made when first looked for
//	repos/<project>.lock     held while refs move; names who moves them
//	mirrors/<project>.git    what we have of an outside repository; a cache
//	mirrors/<project>.lock
//	mirrors/<project>.hosts  ssh host keys seen for it
//	mirrors/<project>.modules/  the same of submodules of its commits, by what they
//	                         are opened with; all of them under <project>.modules.lock
//	work/<project>/<key>/    what is remembered of one work tree
//	local/<project>/<commit>.git
//	                         somebody's working tree, pushed to be run
//
// A push:
//
//	body arrives ──► receive-pack, all but the last bytes     several at a time
//	                     │ lock of the repository             one at a time
//	                     ▼
//	                 last bytes ──► objects on disk, refs move
//	                     ▼
//	                 tell: refs compared with the rows of source_refs;
//	                       rows and events in one transaction
//	                     ▼
//	                 last bytes of the answer                 the push is done
//
// A crash between "refs move" and "tell" is mended by Run, which compares again
// when it starts. So an event is there if and only if its ref moved.
package source
