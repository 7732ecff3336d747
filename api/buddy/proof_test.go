package buddy

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

//go:generate go test -run TestDocs -write .

var writeDocs = flag.Bool("write", false, "write the tables of docs/buddy.md anew")

const docs = "../../docs/buddy.md"

// kindWords are how the page calls the kinds of actions.
var kindWords = []struct {
	kind byte
	word string
}{{kindRun, "run"}, {kindBuild, "build"}, {kindMulti, "multi"}}

// actionProofs names, for each field of an action, the tests that show what it
// does on a real container or build, or that it is refused. A name with the
// letters of kinds behind it is for these alone. <kind> is the page's word for
// the kind. A test is its folder and its name; those of subtests are behind it.
func actionProofs() map[string]string {
	const shown = "e2e TestFields/<kind>/"
	const outside, copies, stages = "e2e TestRegistries/", "e2e TestFields/copies/", "e2e TestFields/stages"
	return map[string]string{
		"type":                  "e2e TestFields, api/buddy TestBadInput",
		"after_action_id":       "e2e TestFields/run/after_action_id",
		"current_revision":      "e2e TestFields/run/current_revision",
		"last_execution_status": "api/buddy TestExchanges/observed",
		"pipeline":              "api/buddy TestExchanges/observed",
		"id":                    "api/buddy TestExchanges/observed",
		"url":                   "api/buddy TestExchanges/observed",
		"html_url":              "api/buddy TestExchanges/observed",

		"name":                      "e2e TestFields/copies/docker_build_action_name_run",
		"trigger_time":              stages + ", e2e TestFields/approval",
		"trigger_conditions":        shown + "trigger_conditions, pipeline TestJudge",
		"run_next":                  "e2e TestFields/run/run_next, pipeline TestParallel",
		"wait_for_approval":         "e2e TestFields/approval",
		"wait_for_variables":        "e2e TestFields/asked",
		"run_only_on_first_failure": stages,
		"variables":                 shown + "variables",
		"disabled":                  shown + "disabled",
		"ignore_errors":             shown + "ignore_errors",
		"timeout":                   shown + "timeout",
		"retry_count":               "e2e TestFields/run/retry_count",
		"retry_interval":            "e2e TestFields/run/retry_interval",
		"loop":                      shown + "loop",
		"permissions":               "pipeline TestPermissions",

		"docker_image_name R":         "e2e TestFields/run/docker_image_name",
		"docker_image_name M":         copies + "docker_image_name_multi",
		"docker_image_tag":            shown + "docker_image_tag",
		"inline_commands":             "e2e TestFields/run/inline_commands",
		"entrypoint":                  "e2e TestFields/run/entrypoint",
		"run_as_user":                 "e2e TestFields/run/run_as_user, e2e TestFields/run/run_as_user_unknown",
		"mount_filesystem_disable":    "e2e TestFields/run/mount_filesystem_disable",
		"volume_mappings":             "e2e TestFields/run/volume_mappings, e2e TestFields/run/volume_mappings_text",
		"export_container_path":       "e2e TestFields/run/export_container_path_file",
		"dockerfile_path":             shown + "dockerfile_path",
		"context_path":                shown + "context_path",
		"target_stage":                shown + "target_stage",
		"target_platform":             "e2e TestFields/multi/target_platform",
		"build_args":                  shown + "build_args",
		"secrets":                     shown + "secrets, " + shown + "secrets_older, " + shown + "secrets_escape",
		"buildkit":                    shown + "buildkit",
		"pull":                        shown + "pull",
		"do_not_prune_images":         "pipeline TestPrunedImages",
		"provenance":                  shown + "provenance",
		"cache_mode":                  "e2e TestFields/cache_scope, " + shown + "cache_mode",
		"repository":                  shown + "repository",
		"versions":                    shown + "versions",
		"package":                     shown + "package",
		"target_path":                 shown + "target_path",
		"docker_registry":             outside + "open, pipeline TestKinds",
		"registry":                    outside + "open",
		"login":                       outside + "logins",
		"password":                    outside + "logins",
		"insecure_registry":           outside + "certificates",
		"region":                      "registry TestAmazon",
		"integration":                 outside + "integration",
		"image_location R":            copies + "image_location_ACTION, " + copies + "image_location_PUBLIC_REGISTRY",
		"image_location DM":           copies + "image_location_multi",
		"use_image_from_action R":     copies + "use_image_from_action",
		"use_image_from_action DM":    copies + "use_image_from_action_multi",
		"docker_build_action_id R":    copies + "docker_build_action_id_run, " + copies + "docker_build_action_id_zero",
		"docker_build_action_id DM":   copies + "use_image_from_action_multi",
		"docker_build_action_name R":  copies + "docker_build_action_name_run",
		"docker_build_action_name DM": copies + "image_location_multi",
	}
}

// pipelineProofs is actionProofs for the fields of a pipeline.
func pipelineProofs() map[string]string {
	const kept = "api/buddy TestExchanges/pipeline-keys"
	const tree, refused = "e2e TestFields/pipeline", "pipeline TestUnsupported"
	return map[string]string{
		"name":                          tree,
		"identifier":                    kept,
		"on":                            "trigger TestPushStartsWhatAsksForIt",
		"refs":                          "trigger TestPushStartsWhatAsksForIt",
		"events":                        "trigger TestPushStartsWhatAsksForIt, trigger TestClock, pipeline TestHookStartsAPipeline, pipeline TestRunOfADeletedRef, trigger TestPullRequests",
		"trigger_conditions":            "pipeline TestConditionsOfPipelines",
		"priority":                      "pipeline TestAdmit",
		"always_from_scratch":           tree,
		"auto_clear_cache":              tree,
		"no_skip_to_most_recent":        "pipeline TestQueue",
		"concurrent_pipeline_runs":      "pipeline TestConcurrentRuns",
		"description_required":          "pipeline TestStartRefused",
		"clone_depth":                   tree,
		"fetch_all_refs":                tree,
		"git_config_ref":                "api/buddy TestFixedDefinition, api/buddy TestDynamicDefinition",
		"git_config":                    "api/buddy TestFixedDefinition",
		"definition_source":             "api/buddy TestRemoteDefinition",
		"remote_project_name":           "api/buddy TestRemoteDefinition",
		"remote_path":                   "api/buddy TestRemoteDefinition",
		"remote_branch":                 "api/buddy TestRemoteDefinition",
		"remote_ref":                    kept,
		"remote_parameters":             "api/buddy TestRemoteDefinition",
		"git_changeset_base":            "pipeline TestChangesetBase, pipeline TestRunOfAPullRequest",
		"filesystem_changeset_base":     kept,
		"cpu":                           refused,
		"worker":                        refused,
		"cache_scope":                   "e2e TestFields/cache_scope",
		"loop":                          "pipeline TestLoopOfAPipeline",
		"permissions":                   "pipeline TestPermissions",
		"variables":                     "pipeline TestTiers",
		"manage_variables_by_yaml":      "api/buddy TestManagedByYAML",
		"manage_permissions_by_yaml":    "api/buddy TestManagedByYAML",
		"pause_on_repeated_failures":    "trigger TestPausedByFailures",
		"paused":                        "trigger TestClock",
		"disabled":                      tree,
		"disabled_reason":               tree,
		"fail_on_prepare_env_warning":   kept,
		"do_not_create_commit_status":   kept,
		"ignore_fail_on_project_status": kept,
		"target_site_url":               kept,
		"execution_message_template":    tree,
		"tags":                          kept,
		"folder":                        kept,
	}
}

// The page of what is obeyed is made of the tables, and of the tests that show
// it.
func TestDocs(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(docs)
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	for heading, table := range map[string]string{
		"## Fields of an action\n":  fieldTable(t, append(quietFields(), actionFields()...), actionProofs()),
		"## Fields of a pipeline\n": fieldTable(t, pipelineFields(), pipelineProofs()),
	} {
		from := strings.Index(page, heading)
		to := from + strings.Index(page[max(from, 0):], "| field | of |")
		if from < 0 || to < from {
			t.Fatalf("%s has no table below %q", docs, heading)
		}
		rest := page[to:]
		end := strings.Index(rest, "|\n\n")
		if end < 0 {
			end = len(rest) - len("|\n")
		}
		have := rest[:end+len("|\n")]
		if have == table {
			continue
		}
		if !*writeDocs {
			t.Errorf("the table below %q is not of today: go generate ./api/buddy", heading)
		}
		page = page[:to] + table + rest[len(have):]
	}
	if *writeDocs {
		if err := os.WriteFile(docs, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for pattern := range New(site, Rooms{}).Table {
		if !strings.Contains(page, "`"+pattern+"`") {
			t.Errorf("%s lacks the route %s", docs, pattern)
		}
	}
}

// fieldTable writes the table of a kind of object for the page.
func fieldTable[T any](t *testing.T, fields []field[T], proofs map[string]string) string {
	t.Helper()
	tests := &testTree{t: t, in: map[string]map[string]bool{}}
	used := map[string]bool{}
	var b strings.Builder
	b.WriteString("| field | of | state | note | shown by |\n|---|---|---|---|---|\n")
	for _, f := range fields {
		of := "all"
		if f.only != "" {
			of = strings.NewReplacer("DM", "builds", "RM", "run, multi", "M", "multi", "R", "run").Replace(f.only)
		}
		var shown []string
		for _, k := range kindWords {
			if !f.has(k.kind) {
				continue
			}
			key := f.name
			for name := range proofs {
				if field, kinds, ok := strings.Cut(name, " "); ok && field == f.name && strings.IndexByte(kinds, k.kind) >= 0 {
					key = name
				}
			}
			used[key] = true
			if proofs[key] == "" {
				t.Errorf("no test shows what %s does in %s: add one to the proofs", f.name, k.word)
			}
			for _, p := range strings.Split(strings.ReplaceAll(proofs[key], "<kind>", k.word), ", ") {
				tests.has(p)
				if p = strings.Replace(p, " ", ".", 1); !slices.Contains(shown, p) {
					shown = append(shown, p)
				}
			}
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", f.name, of, f.status, f.note, strings.Join(shown, " "))
	}
	for key := range proofs {
		if !used[key] {
			t.Errorf("the proof of %q is of no field", key)
		}
	}
	return b.String()
}

// testTree knows the tests of the folders of the project.
type testTree struct {
	t  *testing.T
	in map[string]map[string]bool // by folder: the tests, and every text in their files
}

// has fails for a test that is not there: "e2e TestFields/run/timeout".
func (tt *testTree) has(proof string) {
	tt.t.Helper()
	dir, name, ok := strings.Cut(proof, " ")
	if !ok {
		if proof != "" { // that there is none is said already
			tt.t.Errorf("%q is no folder with a test behind it", proof)
		}
		return
	}
	if tt.in[dir] == nil {
		tt.in[dir] = tt.read(dir)
	}
	parts := strings.Split(name, "/")
	if !tt.in[dir]["func "+parts[0]] {
		tt.t.Errorf("there is no test %s in %s", parts[0], dir)
	}
	for _, sub := range parts[1:] {
		if !tt.in[dir][sub] {
			tt.t.Errorf("there is no test %s in %s", name, dir)
		}
	}
}

func (tt *testTree) read(dir string) map[string]bool {
	tt.t.Helper()
	all := map[string]bool{}
	files, err := filepath.Glob(filepath.Join("..", "..", dir, "*_test.go"))
	if err != nil || len(files) == 0 {
		tt.t.Errorf("there are no tests in %s", dir)
	}
	exchanges, _ := filepath.Glob(filepath.Join("..", "..", dir, "testdata", "*.txtar"))
	for _, x := range exchanges { // each is a test of that name
		all[strings.TrimSuffix(filepath.Base(x), ".txtar")] = true
	}
	for _, f := range files {
		if filepath.Base(f) == "proof_test.go" { // names them, and has none of them
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.SkipObjectResolution)
		if err != nil {
			tt.t.Fatal(err)
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if n.Recv == nil {
					all["func "+n.Name.Name] = true
				}
			case *ast.BasicLit:
				if s, err := strconv.Unquote(n.Value); err == nil && n.Kind == token.STRING {
					all[strings.ReplaceAll(s, " ", "_")] = true
				}
			}
			return true
		})
	}
	return all
}
