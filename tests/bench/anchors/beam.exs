# The shape on the BEAM, in two operating-system processes: caller -> composite -> backend, and back. Nothing is stored.
#
#     beam.exs serve            composite and backend, until the input ends
#     beam.exs call NODE        for each line: "one COUNT", the median of a caller in microseconds,
#                               or "together CALLERS COUNT", calls a second of so many that make COUNT calls each

defmodule Backend do
  use GenServer
  def init(state), do: {:ok, state}
  def handle_call({:append, event}, _from, state), do: {:reply, {:ok, event}, state}
end

defmodule Composite do
  use GenServer
  def init(backend), do: {:ok, backend}
  def handle_call({:append, _event} = message, _from, backend), do: {:reply, GenServer.call(backend, message), backend}
end

defmodule Caller do
  @event %{id: "evt_" <> String.duplicate("a", 32), data: %{content: String.duplicate("x", 80)}}

  def call(store, count), do: for(_ <- 1..count, do: GenServer.call(store, {:append, @event}))

  def answer(["one", count], store) do
    count = String.to_integer(count)
    took = for _ <- 1..count, do: elem(:timer.tc(fn -> GenServer.call(store, {:append, @event}) end, []), 0)
    Enum.at(Enum.sort(took), div(count, 2))
  end

  def answer(["together", callers, count], store) do
    {callers, count} = {String.to_integer(callers), String.to_integer(count)}

    {took, _} =
      :timer.tc(fn ->
        1..callers |> Enum.map(fn _ -> Task.async(fn -> call(store, count) end) end) |> Task.await_many(:infinity)
      end)

    round(callers * count / took * 1.0e6)
  end

  def loop(store) do
    case IO.gets("") do
      line when is_binary(line) ->
        IO.puts(answer(String.split(line), store))
        loop(store)

      _ended ->
        :ok
    end
  end
end

case System.argv() do
  ["serve"] ->
    {:ok, backend} = GenServer.start_link(Backend, nil)
    {:ok, _} = GenServer.start_link(Composite, backend, name: :store)
    IO.puts("true")
    IO.gets("")

  ["call", node] ->
    node = String.to_atom(node)
    :pong = :net_adm.ping(node)
    Caller.call({:store, node}, 3000)
    IO.puts("true")
    Caller.loop({:store, node})
end
