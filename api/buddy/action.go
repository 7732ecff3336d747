package buddy

import (
	"encoding/json"
	"slices"
	"strconv"

	"slipway/pipeline"
)

// Kinds of actions: the word on the wire, and the letter by which a field says
// which of them have it.
const (
	typeRun   = "RUN_DOCKER_CONTAINER"
	typeBuild = "DOCKERFILE"
	typeMulti = "DOCKER_BUILD_MULTI_ARCH"

	kindRun   = 'R'
	kindBuild = 'D'
	kindMulti = 'M'
)

func kindOf(a *pipeline.Action) byte {
	switch {
	case a.Run != nil:
		return kindRun
	case a.Build != nil && a.Build.Multi:
		return kindMulti
	}
	return kindBuild
}

func typeOf(a *pipeline.Action) string {
	return map[byte]string{kindRun: typeRun, kindBuild: typeBuild, kindMulti: typeMulti}[kindOf(a)]
}

// newAction is an empty action of a type; with false, for an unknown one, it is
// one that needs no more than all do.
func newAction(typ string) (pipeline.Action, bool) {
	switch typ {
	case typeRun:
		return pipeline.Action{Run: &pipeline.Run{}}, true
	case typeBuild:
		return pipeline.Action{Build: &pipeline.Build{}}, true
	case typeMulti:
		return pipeline.Action{Build: &pipeline.Build{Multi: true}}, true
	}
	return pipeline.Action{Build: &pipeline.Build{Multi: true}}, false
}

type action = pipeline.Action

// both is a member that runs and builds keep in places of their own.
func both(run, build func(*action) *string) func(*action) *string {
	return func(a *action) *string {
		if a.Run != nil {
			return run(a)
		}
		return build(a)
	}
}

func registry(a *action) *pipeline.Registry {
	if a.Run != nil {
		return &a.Run.Registry
	}
	return &a.Build.Registry
}

func imageFrom(a *action) *pipeline.ImageFrom {
	if a.Run != nil {
		return &a.Run.From
	}
	return &a.Build.From
}

// actionFields are the members of an action, in the order of the answers.
func actionFields() []field[action] {
	return append(commonFields(), ownFields()...)
}

func commonFields() []field[action] {
	return []field[action]{
		{
			name: "name", status: obeyed,
			in:  func(d *decoder, raw json.RawMessage, a *action) { a.Name = d.str(raw) },
			out: func(a *action, _ *kept) any { return a.Name },
		},
		wordField("trigger_time", string(pipeline.OnEvery), func(a *action) string { return string(a.When) },
			func(a *action, s string) { a.When = pipeline.When(s) }).as(obeyed, "ON_WAIT_FOR_APPROVE is reached when an action with wait_for_approval is"),
		{
			name: "trigger_conditions", status: obeyed,
			in:  func(d *decoder, raw json.RawMessage, a *action) { a.Conditions = d.conditions(raw) },
			out: func(a *action, _ *kept) any { return fromConditions(a.Conditions) },
		},
		wordField("run_next", string(pipeline.WaitOnSuccess), func(a *action) string { return string(a.RunNext) },
			func(a *action, s string) { a.RunNext = pipeline.RunNext(s) }),
		boolField("wait_for_approval", func(a *action) *bool { return &a.Approval }).
			as(obeyed, "Slipway's own: the action waits, and holds no slot, until somebody who may run it sends the operation APPLY; not with ON_WAIT_FOR_APPROVE and ON_TERMINATE"),
		stringsField("wait_for_variables", func(a *action) *[]string { return &a.Asks }).
			as(obeyed, "Slipway's own: names of variables; the action waits, and holds no slot, until somebody who may run it gives them with the operation APPLY_VARIABLES; not with ON_WAIT_FOR_APPROVE and ON_TERMINATE"),
		boolField("run_only_on_first_failure", func(a *action) *bool { return &a.FirstFailureOnly }),
		{
			name: "variables", status: obeyed, note: "init_path, defaults, password, passphrase, key_identifier and the types IOS_KEYCHAIN, IOS_PROVISION_PROFILES are refused",
			in:  func(d *decoder, raw json.RawMessage, a *action) { a.Variables = d.variables(raw) },
			out: func(a *action, _ *kept) any { return fromVariables(a.Variables) },
		},
		boolField("disabled", func(a *action) *bool { return &a.Disabled }),
		boolField("ignore_errors", func(a *action) *bool { return &a.IgnoreErrors }),
		secondsField("timeout", func(a *action) *secondsOf { return &a.Timeout }).as(obeyed, "0 or none is 90 minutes; at most 24 hours"),
		intField("retry_count", func(a *action) int64 { return int64(a.Retries) }, func(a *action, n int64) { a.Retries = clampInt(n) }),
		secondsField("retry_interval", func(a *action) *secondsOf { return &a.RetryInterval }),
		stringsField("loop", func(a *action) *[]string { return &a.Loop }).as(obeyed, "names of variables, each once; at most 1000 combinations"),
		{
			name: "permissions", status: obeyed, note: "narrow what members may do",
			in:  func(d *decoder, raw json.RawMessage, a *action) { a.Permissions = d.permissions(raw) },
			out: func(a *action, _ *kept) any { return fromPermissions(a.Permissions) },
		},
	}
}

func ownFields() []field[action] {
	const builds, multi, runs = "DM", "M", "R"
	return []field[action]{
		strField("docker_image_name", both(func(a *action) *string { return &a.Run.Image }, func(a *action) *string { return &a.Build.Image })).of("RM").
			as(obeyed, "of "+typeMulti+": the image that is taken with image_location PUBLIC_REGISTRY or PRIVATE_REGISTRY"),
		strField("docker_image_tag", both(func(a *action) *string { return &a.Run.Tag }, func(a *action) *string { return &a.Build.Tag })).
			as(obeyed, "several tags of a build are parted by commas"),
		{
			name: "inline_commands", only: runs, status: obeyed, note: "run by /bin/sh -e -c; with an entrypoint that is no shell they are its arguments; at most 1 MiB, an argument 131071 bytes",
			in:  func(d *decoder, raw json.RawMessage, a *action) { a.Run.Commands = d.str(raw) },
			out: func(a *action, _ *kept) any { return orNull(a.Run.Commands) },
		},
		strField("entrypoint", func(a *action) *string { return &a.Run.Entrypoint }).of(runs),
		strField("run_as_user", func(a *action) *string { return &a.Run.User }).of(runs).
			as(obeyed, "the files of the pipeline are its for the action, so that it may write; of actions beside each other the one that begins last has them"),
		boolField("mount_filesystem_disable", func(a *action) *bool { return &a.Run.NoMount }).of(runs),
		volumeMappings().of(runs),
		strField("export_container_path", func(a *action) *string { return &a.Run.ExportPath }).of(runs),

		strField("dockerfile_path", func(a *action) *string { return &a.Build.Dockerfile }).of(builds),
		strField("context_path", func(a *action) *string { return &a.Build.Context }).of(builds),
		strField("target_stage", func(a *action) *string { return &a.Build.Target }).of(builds),
		strField("target_platform", func(a *action) *string { return &a.Build.Platforms }).of(multi),
		stringsField("build_args", func(a *action) *[]string { return &a.Build.Args }).of(builds).
			as(obeyed, "they are kept in the image: with a secret variable in one the action fails; such a value goes into secrets"),
		buildSecrets().of(builds),
		switchField("buildkit", func(a *action) **bool { return &a.Build.BuildKit }).of(builds).as(noEffect, "there is no other builder"),
		switchField("pull", func(a *action) **bool { return &a.Build.Pull }).of(builds).
			as(obeyed, "when it is not given: true for "+typeMulti+"; for "+typeBuild+" only latest is asked for"),
		boolField("do_not_prune_images", func(a *action) *bool { return &a.Build.KeepImages }).of(builds),
		strField("provenance", func(a *action) *string { return &a.Build.Provenance }).of(builds),
		strField("cache_mode", func(a *action) *string { return &a.Build.CacheMode }).of(builds).
			as(obeyed, "with the pipeline's cache_scope PROJECT or WORKSPACE: MIN (what it is when not given) gives others the steps that the image consists of, MAX those of all stages; else it has no effect, the log says so"),
		strField("repository", func(a *action) *string { return &a.Build.Repository }).of(builds).as(obeyed, "in the registry of this server (`registry` is its address) the first part is the workspace, which is that of the pipeline; a login is not needed there and has no effect, the log says so"),
		stringsField("versions", func(a *action) *[]string { return &a.Build.Versions }).of(builds),
		strField("package", func(a *action) *string { return &a.Build.Package }).of(builds),
		strField("target_path", func(a *action) *string { return &a.Build.TargetPath }).of(builds).as(noEffect, ""),

		wordField("docker_registry", "", func(a *action) string { return string(registry(a).Kind) },
			func(a *action, s string) { registry(a).Kind = pipeline.RegistryKind(s) }).
			as(obeyed, "derived from the integration, registry and login when it is not given"),
		strField("registry", func(a *action) *string { return &registry(a).URL }).
			as(obeyed, "who may set a variable that is in it says where login and password go"),
		strField("login", func(a *action) *string { return &registry(a).Username }),
		strField("password", func(a *action) *string { return &registry(a).Password }).
			as(obeyed, "answered as !encrypted, which means unchanged when it is sent back; needed anew when another registry, docker_registry or insecure_registry is chosen"),
		boolField("insecure_registry", func(a *action) *bool { return &registry(a).Insecure }),
		strField("region", func(a *action) *string { return &registry(a).Region }).as(obeyed, "of AMAZON_ECR"),
		integration(),
		strField("image_location", both(func(a *action) *string { return &a.Run.Location }, func(a *action) *string { return &a.Build.Location })).
			as(obeyed, "a build with it runs no Dockerfile: it takes the image from there"),
		boolField("use_image_from_action", func(a *action) *bool { return &imageFrom(a).Use }).as(obeyed, "as image_location ACTION"),
		intField("docker_build_action_id", func(a *action) int64 { return int64(imageFrom(a).ID) },
			func(a *action, n int64) { imageFrom(a).ID = pipeline.ActionID(n) }),
		strField("docker_build_action_name", func(a *action) *string { return &imageFrom(a).Name }),
	}
}

// volumeMappings is a list, or one text; it is answered in the form in which it
// was given.
func volumeMappings() field[action] {
	const form = "volume_mappings"
	return field[action]{
		name: form, status: obeyed,
		in: func(d *decoder, raw json.RawMessage, a *action) {
			if len(raw) > 0 && raw[0] == '"' {
				a.Run.Mounts = nil
				if s := d.str(raw); s != "" {
					a.Run.Mounts, d.keep.Form[form] = []string{s}, "text"
				}
				return
			}
			a.Run.Mounts = d.strings(raw)
		},
		out: func(a *action, k *kept) any {
			switch m := a.Run.Mounts; {
			case len(m) == 1 && k.Form[form] == "text":
				return m[0]
			case len(m) > 0:
				return m
			}
			return nil
		},
	}
}

// buildSecrets come as {id, value, type} or, older, {secret_id, secret_src}.
func buildSecrets() field[action] {
	const form = "secrets"
	return field[action]{
		name: form, status: obeyed,
		in: func(d *decoder, raw json.RawMessage, a *action) {
			a.Build.Secrets = nil
			d.each(raw, func(e json.RawMessage) {
				var s pipeline.BuildSecret
				b := d.object(e)
				if _, ok := b["secret_id"]; ok {
					d.keep.Form[form] = "older"
				}
				d.member(b, "secret_id", func(raw json.RawMessage) { s.ID = d.str(raw) })
				d.member(b, "secret_src", func(raw json.RawMessage) { s.Value = d.str(raw) })
				d.member(b, "id", func(raw json.RawMessage) { s.ID = d.str(raw) })
				d.member(b, "value", func(raw json.RawMessage) { s.Value = d.str(raw) })
				d.member(b, "type", func(raw json.RawMessage) { s.Type = d.str(raw) })
				a.Build.Secrets = append(a.Build.Secrets, s)
			})
		},
		out: func(a *action, k *kept) any {
			if len(a.Build.Secrets) == 0 {
				return nil
			}
			var l []object
			for _, s := range a.Build.Secrets {
				if k.Form[form] == "older" {
					l = append(l, object{{"secret_id", s.ID}, {"secret_src", s.Value}})
					continue
				}
				l = append(l, object{{"id", s.ID}, {"value", s.Value}, {"type", or(s.Type, "FILE")}})
			}
			return l
		},
	}
}

// integration is named by hash_id, identifier or, older, id.
func integration() field[action] {
	return field[action]{
		name: "integration", status: obeyed, note: "by hash_id or identifier; one that is not there, or that the pipeline may not use, fails the action when it is run",
		in: func(d *decoder, raw json.RawMessage, a *action) {
			r := registry(a)
			r.Integration = nil
			if isNull(raw) {
				return
			}
			b, i := d.object(raw), &pipeline.Integration{}
			d.member(b, "hash_id", func(raw json.RawMessage) { i.HashID = d.str(raw) })
			d.member(b, "identifier", func(raw json.RawMessage) { i.Identifier = d.str(raw) })
			d.member(b, "id", func(raw json.RawMessage) {
				if len(raw) > 0 && raw[0] == '"' {
					i.ID = d.str(raw)
				} else if n := d.int(raw); n != 0 {
					i.ID = strconv.FormatInt(n, 10)
				}
			})
			if *i != (pipeline.Integration{}) {
				r.Integration = i
			}
		},
		out: func(a *action, _ *kept) any {
			i := registry(a).Integration
			if i == nil {
				return nil
			}
			var o object
			if i.HashID != "" {
				o = o.with("hash_id", i.HashID)
			}
			if i.Identifier != "" {
				o = o.with("identifier", i.Identifier)
			}
			if n, err := strconv.ParseInt(i.ID, 10, 64); err == nil {
				o = o.with("id", n)
			} else if i.ID != "" {
				o = o.with("id", i.ID)
			}
			return o
		},
	}
}

// quietFields are members of an action that are read only, or mean something
// only once; they are no unknown ones.
func quietFields() []field[action] {
	return []field[action]{
		{name: "type", status: obeyed, note: "cannot be changed"},
		{name: "after_action_id", status: obeyed, note: "in requests only; 0 is the first place"},
		{name: "current_revision", status: readOnly, note: "the commit of its last success"},
		{name: "last_execution_status", status: readOnly},
		{name: "pipeline", status: readOnly, note: "not in lists"},
		{name: "id", status: readOnly},
		{name: "url", status: readOnly},
		{name: "html_url", status: readOnly},
	}
}

func silent(name string) bool {
	return slices.ContainsFunc(quietFields(), func(f field[action]) bool { return f.name == name })
}

// readAction reads the members of a request into an action, and lists those
// that an action of its kind does not have. Kind 0 has those that all have.
func readAction(d *decoder, b body, a *action, kind byte) (unknown []string, err error) {
	d.keep = keptOf(a.Attrs)
	for _, name := range apply(d, actionFields(), kind, b, a) {
		if !silent(name) {
			unknown = append(unknown, name)
		}
	}
	a.Attrs, err = d.keep.into(a.Attrs)
	return unknown, err
}

// fromAction is an action as it is answered.
func (h *handlers) fromAction(at place, a *action) object {
	o := object{
		{"url", at.url("/actions/%d", a.ID)},
		{"html_url", at.page("/actions/%d", a.ID)},
		{"id", a.ID},
	}
	f := write(actionFields(), kindOf(a), a, keptOf(a.Attrs))
	o = append(o, f[0], member{"type", typeOf(a)})
	o = append(o, f[1], member{"last_execution_status", a.LastStatus}, member{"current_revision", orNull(a.LastRevision)})
	return append(o, f[2:]...)
}

// shortAction is an action inside of something else.
func shortAction(at place, a *action) object {
	return object{
		{"url", at.url("/actions/%d", a.ID)},
		{"html_url", at.page("/actions/%d", a.ID)},
		{"id", a.ID},
		{"name", a.Name},
		{"type", typeOf(a)},
		{"trigger_time", or(string(a.When), string(pipeline.OnEvery))},
		{"last_execution_status", or(string(a.LastStatus), string(pipeline.Initial))},
	}
}
