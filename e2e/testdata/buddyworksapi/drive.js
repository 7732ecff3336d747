'use strict';
// Drives a server with the vendor's client: makes a project, files, a pipeline
// with a build and a run, changes and runs it, reads what came of it, and deletes
// all of it again. Each answer is looked at.
const assert = require('assert').strict;
const api = require('buddyworksapi');

const token = process.env.SLIPWAY_TOKEN;
const workspace = 'default';
const project = 'from-node';
api.client.host = process.env.SLIPWAY_URL;

// ask calls a method of the client with what all of them begin with.
function ask(room, method, ...args) {
	return new Promise((resolve, reject) => {
		room[method](token, ...args, (err, json) => (err ? reject(err) : resolve(json)));
	});
}

const pause = () => new Promise((resolve) => setTimeout(resolve, 100));

async function ended(pipeline, id) {
	for (;;) {
		const x = await ask(api.executions, 'getExecution', workspace, project, pipeline, id);
		if (!['ENQUEUED', 'INPROGRESS', 'TERMINATING'].includes(x.status)) {
			return x;
		}
		await pause();
	}
}

async function gone(promise) {
	const err = await promise.then(() => null, (e) => e);
	assert(err, 'it is still there');
	assert.equal(err.code, 404);
	assert.equal(typeof err.messages[0].message, 'string');
}

async function main() {
	const me = await ask(api.profile, 'getProfile');
	assert.equal(typeof me.id, 'number');
	const {workspaces} = await ask(api.workspaces, 'getList');
	assert(workspaces.some((w) => w.domain === workspace));

	// Create.
	const made = await ask(api.projects, 'addProject', workspace, {name: project, display_name: project});
	assert.equal(made.name, project);
	const text = (s) => Buffer.from(s).toString('base64');
	await ask(api.source, 'addFile', workspace, project, {
		path: '/Dockerfile', message: 'A build', content: text('FROM slipway.local/default/shell:1\nCOPY greeting /greeting\n'),
	});
	const {commit} = await ask(api.source, 'addFile', workspace, project, {path: '/greeting', message: 'A greeting', content: text('hello of node\n')});
	const pipeline = (await ask(api.pipelines, 'addPipeline', workspace, project, {
		name: 'From node', trigger_mode: 'MANUAL', ref_name: 'main', ref_type: 'BRANCH',
	})).id;
	const build = await ask(api.pipelines, 'addPipelineAction', workspace, project, pipeline, {
		name: 'Build', type: 'DOCKERFILE', dockerfile_path: 'Dockerfile', docker_image_tag: 'node', trigger_time: 'ON_EVERY_EXECUTION',
	});
	const run = await ask(api.pipelines, 'addPipelineAction', workspace, project, pipeline, {
		name: 'Try', type: 'RUN_DOCKER_CONTAINER', use_image_from_action: true, docker_build_action_id: 0, inline_commands: 'exit 1',
	});
	const edited = await ask(api.pipelines, 'editPipelineAction', workspace, project, pipeline, run.id, {
		type: 'RUN_DOCKER_CONTAINER', inline_commands: 'cat /greeting\necho "$WHO"',
	});
	assert.equal(edited.inline_commands, 'cat /greeting\necho "$WHO"');
	const {actions} = await ask(api.pipelines, 'getPipelineActions', workspace, project, pipeline, {per_page: 10});
	assert.deepEqual(actions.map((a) => a.id), [build.id, run.id]);

	// Run.
	const started = await ask(api.executions, 'runExecution', workspace, project, pipeline, {
		to_revision: {revision: commit.revision}, comment: 'by node', variables: [{key: 'WHO', value: 'a client'}],
	});
	const x = await ended(pipeline, started.id);
	assert.equal(x.status, 'SUCCESSFUL', JSON.stringify(x.action_executions));
	assert.equal(x.to_revision.revision, commit.revision);
	const {executions} = await ask(api.executions, 'getList', workspace, project, pipeline, {page: 1});
	assert.deepEqual(executions.map((e) => e.id), [started.id]);

	// Logs: the client has no method for them, but one for any address.
	const said = await ask(api.client, 'getJson', x.action_executions[1].url + '/logs?offset=0&limit=100');
	assert.equal(said.logs.length, said.total_element_count);
	assert(said.logs.includes('hello of node') && said.logs.includes('a client'), JSON.stringify(said.logs));
	const older = await ask(api.client, 'getJson', x.url + '/action/' + run.id);
	assert.deepEqual(older.log, said.logs);

	// One that is cancelled.
	await ask(api.pipelines, 'editPipelineAction', workspace, project, pipeline, run.id, {inline_commands: 'busybox sleep 600'});
	const long = await ask(api.executions, 'runExecution', workspace, project, pipeline, {to_revision: {revision: 'HEAD'}});
	await ask(api.executions, 'cancelExecution', workspace, project, pipeline, long.id);
	assert.equal((await ended(pipeline, long.id)).status, 'TERMINATED');

	// What is wrong is said.
	const wrong = await ask(api.pipelines, 'addPipelineAction', workspace, project, pipeline, {name: 'x', type: 'NPM'}).catch((e) => e);
	assert.equal(wrong.code, 400);
	assert(wrong.message.startsWith('type: '), wrong.message);

	// Delete.
	await ask(api.pipelines, 'deletePipelineAction', workspace, project, pipeline, run.id);
	await gone(ask(api.pipelines, 'getPipelineAction', workspace, project, pipeline, run.id));
	await ask(api.pipelines, 'deletePipeline', workspace, project, pipeline);
	await gone(ask(api.pipelines, 'getPipeline', workspace, project, pipeline));
	await ask(api.projects, 'deleteProject', workspace, project);
	await gone(ask(api.projects, 'getProject', workspace, project));
	console.log('all of it was done');
}

main().catch((err) => {
	console.error(err.stack, err.messages || '');
	process.exit(1);
});
