// Streams and events: work is queued, and done in its stream's order when somebody waits for it.
#include "driver.h"
#include <chrono>
#include <set>

namespace fake {
struct Moment {
  bool reached = false;
  double milliseconds = 0;
};
namespace {
CUstream_st default_stream{true};
std::set<CUstream_st*> streams{&default_stream};

CUstream_st* stream_of(CUstream stream) {
  if (!stream || stream == CU_STREAM_LEGACY) return &default_stream;
  return streams.count(stream) ? stream : nullptr;
}

CUresult run_until(CUstream_st* stream, uint64_t ticket) {
  while (stream->done < ticket) {
    Work work = std::move(stream->queue.front());
    stream->queue.pop_front();
    CUresult status = work.awaited ? run_until(work.awaited, work.ticket) : work.act();
    ++stream->done;
    if (status) return broken = status;
  }
  return CUDA_SUCCESS;
}
void push(CUstream_st* stream, Work work) {
  stream->queue.push_back(std::move(work));
  ++stream->submitted;
}
void await(CUstream_st* stream, CUstream_st* other) {
  if (other != stream && other->done < other->submitted) push(stream, {nullptr, other, other->submitted});
}
CUresult finish(CUstream_st* stream) {
  Opened opened;
  CUresult status = run_until(stream, stream->submitted);
  return status ? status : check_ends();
}
}  // namespace

bool capturing(CUstream stream) {
  CUstream_st* s = stream_of(stream);
  return s && s->capture;
}

CUresult unsafe_call() {
  for (CUstream_st* s : streams)
    if (s->capture && s->capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED) return s->capture->spoiled = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  return CUDA_SUCCESS;
}

CUresult submit(CUstream stream, Act act) {
  CUstream_st* s = stream_of(stream);
  if (!s) return CUDA_ERROR_INVALID_HANDLE;
  if (s->capture) {
    if (s->capture->spoiled) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    auto& nodes = s->capture->graph->nodes;
    nodes.push_back({std::move(act), s->tails});
    s->tails = {int(nodes.size()) - 1};
    return CUDA_SUCCESS;
  }
  for (CUstream_st* other : streams) {
    if (!s->blocking || !other->blocking || (s != &default_stream && other != &default_stream)) continue;
    if (other->capture) return other->capture->spoiled = CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    await(s, other);
  }
  push(s, {std::move(act)});
  return CUDA_SUCCESS;
}

CUresult drain(CUstream stream) {
  CUstream_st* s = stream_of(stream);
  if (!s) return CUDA_ERROR_INVALID_HANDLE;
  if (s->capture) return s->capture->spoiled = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  return finish(s);
}
CUresult drain_all() {
  for (CUstream_st* s : streams)
    if (CUresult status = finish(s)) return status;
  return CUDA_SUCCESS;
}
}  // namespace fake

using namespace fake;
struct CUevent_st {
  bool timed;
  std::shared_ptr<Moment> moment;  // of the latest record
  CUstream_st* stream = nullptr;
  uint64_t ticket = 0;
  std::shared_ptr<Capture> capture;
  std::vector<int> nodes;
};

CUresult cuStreamCreate(CUstream* out, unsigned flags) {
  ENTER;
  *out = new CUstream_st{flags != CU_STREAM_NON_BLOCKING};
  streams.insert(*out);
  return CUDA_SUCCESS;
}
CUresult cuStreamCreateWithPriority(CUstream* out, unsigned flags, int) { return cuStreamCreate(out, flags); }
CUresult cuStreamDestroy(CUstream stream) {
  ENTER;
  if (!stream || !streams.count(stream)) return CUDA_ERROR_INVALID_HANDLE;
  CUresult status = drain(stream);
  for (CUstream_st* s : streams)
    for (Work& work : s->queue)
      if (work.awaited == stream) work = {[] { return CUDA_SUCCESS; }};  // all of it is done
  streams.erase(stream);
  delete stream;
  return status;
}
CUresult cuStreamSynchronize(CUstream stream) {
  ENTER;
  return drain(stream);
}
CUresult cuStreamQuery(CUstream stream) {
  ENTER;
  CUstream_st* s = stream_of(stream);
  if (!s) return CUDA_ERROR_INVALID_HANDLE;
  if (s->capture) return s->capture->spoiled = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  if (s->done == s->submitted) return CUDA_SUCCESS;
  Opened opened;
  CUresult status = run_until(s, s->done + 1);  // whoever asks again and again gets there
  return status ? status : CUDA_ERROR_NOT_READY;
}
CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned) {
  ENTER;
  CUstream_st* s = stream_of(stream);
  if (!s || !event) return CUDA_ERROR_INVALID_HANDLE;
  if (event->capture) {
    if (s->capture && s->capture != event->capture) return s->capture->spoiled = CUDA_ERROR_STREAM_CAPTURE_MERGE;
    if (event->capture->spoiled) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    s->capture = event->capture;
    s->tails.insert(s->tails.end(), event->nodes.begin(), event->nodes.end());
    return CUDA_SUCCESS;
  }
  if (s->capture) return s->capture->spoiled = CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
  if (event->stream && event->stream->done < event->ticket && event->stream != s) push(s, {nullptr, event->stream, event->ticket});
  return CUDA_SUCCESS;
}
CUresult cuLaunchHostFunc(CUstream stream, CUhostFn function, void* data) {
  ENTER;
  return submit(stream, [=] { return function(data), CUDA_SUCCESS; });
}

CUresult cuEventCreate(CUevent* out, unsigned flags) {
  ENTER;
  *out = new CUevent_st{!(flags & CU_EVENT_DISABLE_TIMING)};
  return CUDA_SUCCESS;
}
CUresult cuEventDestroy(CUevent event) {
  ENTER;
  delete event;
  return CUDA_SUCCESS;
}
CUresult cuEventRecord(CUevent event, CUstream stream) {
  ENTER;
  CUstream_st* s = stream_of(stream);
  if (!s || !event) return CUDA_ERROR_INVALID_HANDLE;
  event->capture = s->capture, event->nodes = s->tails;
  if (s->capture) return CUDA_SUCCESS;
  auto moment = event->moment = std::make_shared<Moment>();
  CUresult status = submit(stream, [moment] {
    using namespace std::chrono;
    moment->milliseconds = duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
    moment->reached = true;
    return CUDA_SUCCESS;
  });
  event->stream = s, event->ticket = s->submitted;
  return status;
}
CUresult cuEventSynchronize(CUevent event) {
  ENTER;
  if (event->capture) return event->capture->spoiled = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  if (!event->stream || event->moment->reached) return CUDA_SUCCESS;
  Opened opened;
  return run_until(event->stream, event->ticket);
}
CUresult cuEventQuery(CUevent event) {
  ENTER;
  if (event->capture) return event->capture->spoiled = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  if (!event->stream || event->moment->reached) return CUDA_SUCCESS;
  Opened opened;
  CUresult status = run_until(event->stream, event->stream->done + 1);
  return status ? status : CUDA_ERROR_NOT_READY;
}
CUresult cuEventElapsedTime(float* milliseconds, CUevent from, CUevent to) {
  ENTER;
  if (!from->timed || !to->timed || !from->moment || !to->moment) return CUDA_ERROR_INVALID_HANDLE;
  if (!from->moment->reached || !to->moment->reached) return CUDA_ERROR_NOT_READY;
  *milliseconds = float(to->moment->milliseconds - from->moment->milliseconds);
  return CUDA_SUCCESS;
}
#undef cuEventElapsedTime  // the name that programs built for older drivers ask for
extern "C" __attribute__((visibility("default"))) CUresult cuEventElapsedTime(float* milliseconds, CUevent from, CUevent to) {
  return cuEventElapsedTime_v2(milliseconds, from, to);
}

CUresult cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode mode) {
  ENTER;
  if (!stream || !streams.count(stream)) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;  // the default stream cannot
  if (stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
  stream->capture = std::make_shared<Capture>(Capture{new CUgraph_st, stream, mode});
  return CUDA_SUCCESS;
}
CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus* out) {
  ENTER;
  CUstream_st* s = stream_of(stream);
  if (!s) return CUDA_ERROR_INVALID_HANDLE;
  *out = !s->capture ? CU_STREAM_CAPTURE_STATUS_NONE : s->capture->spoiled ? CU_STREAM_CAPTURE_STATUS_INVALIDATED : CU_STREAM_CAPTURE_STATUS_ACTIVE;
  return CUDA_SUCCESS;
}
CUresult cuStreamEndCapture(CUstream stream, CUgraph* out) {
  ENTER;
  *out = nullptr;
  if (!stream || !streams.count(stream) || !stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
  std::shared_ptr<Capture> capture = stream->capture;
  if (capture->origin != stream) return capture->spoiled = CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
  auto& nodes = capture->graph->nodes;
  std::vector<bool> joined(nodes.size());
  for (int tail : stream->tails) joined[tail] = true;
  for (size_t n = nodes.size(); n-- > 0;)
    if (joined[n])
      for (int before : nodes[n].after) joined[before] = true;
  for (CUstream_st* s : streams)
    if (s->capture == capture) s->capture = nullptr, s->tails.clear();
  CUresult status = capture->spoiled ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS;
  for (bool one : joined)
    if (!one && !status) status = CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
  if (status) return delete capture->graph, status;
  *out = capture->graph;
  return CUDA_SUCCESS;
}
